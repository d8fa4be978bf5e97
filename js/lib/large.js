// One picture, as large as the window allows, on top of everything; the keys lead through its neighbors.
import { addStyle, element } from "./dom.js";
import { t } from "./words.js";

addStyle(new URL("./large.css", import.meta.url));

/**
 * Opens a picture. `describe(index)` returns what is shown at a place, { src, caption, actions }: the picture's address, an element or a text
 * below it, and buttons as { text, title, act, key }. After an action everything is shown anew. Escape, Space and a click beside the picture close.
 */
export function openLarge({ count, start, describe, onClose }) {
  let index = start;
  const picture = element("img", { alt: "", decoding: "async" });
  const caption = element("div", { className: "bld-large-caption" });
  const step = (by, text, title) => element("button", { className: "bld-large-step", textContent: text, title, onclick: () => go(index + by) });
  const back = step(-1, "‹", t("Previous (←)"));
  const on = step(1, "›", t("Next (→)"));
  const dialog = element("dialog", { className: "bld-large", tabIndex: -1 }, element("div", { className: "bld-large-row" }, back, picture, on), caption);
  let actions = [];

  function go(place) {
    index = Math.min(Math.max(place, 0), count - 1);
    const shown = describe(index);
    actions = shown.actions;
    picture.src = shown.src;
    back.disabled = index === 0;
    on.disabled = index === count - 1;
    const buttons = actions.map(({ text, title, act }) => element("button", { textContent: text, title, onclick: () => perform(act) }));
    caption.replaceChildren(shown.caption, element("div", { className: "bld-large-actions" }, ...buttons));
    // The button that had the focus may be gone, and the keys belong here.
    if (dialog.open && !dialog.contains(document.activeElement)) dialog.focus();
  }

  function perform(act) {
    act();
    if (dialog.open) go(index);
  }

  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // The graph behind must not hear the keys.
    event.stopPropagation();
    const steps = { ArrowLeft: index - 1, ArrowUp: index - 1, ArrowRight: index + 1, ArrowDown: index + 1, Home: 0, End: count - 1 };
    const action = actions.find(({ key }) => key === event.key);
    if (event.key in steps) go(steps[event.key]);
    else if (event.key === " " || event.key === "Escape") dialog.close();
    else if (action) perform(action.act);
    else return;
    event.preventDefault();
  });
  dialog.addEventListener("click", (event) => event.target.closest("img, button, .bld-large-caption") || dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    onClose?.(index);
  });

  document.body.append(dialog);
  go(start);
  dialog.showModal();
  return dialog;
}
