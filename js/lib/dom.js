// Elements without HTML: whatever is shown, a prompt or a file name, is text.
import { api, app } from "./comfy.js";

/**
 * An element. Properties are set on it as they are (`className`, `title`, `onclick`, ...), except that `dataset`, `style` and `aria`
 * hold several each. Children are elements or texts; null and undefined are left out.
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset" || name === "style") Object.assign(made[name], value);
    else if (name === "aria") for (const [key, text] of Object.entries(value)) made.setAttribute(`aria-${key}`, text);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** The address of a file that the server has written: { filename, subfolder, type }. */
export const fileUrl = ({ filename, subfolder, type }) => api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);

/** Adds a style sheet of this pack to the page, once: addStyle(new URL("./gallery.css", import.meta.url)). */
export function addStyle({ href }) {
  if ([...document.styleSheets].some((sheet) => sheet.href === href)) return;
  document.head.append(element("link", { rel: "stylesheet", href }));
}

/**
 * Lets the canvas have what is meant for it while the pointer is over an element: zooming, the middle button, and the wheel where
 * `scrolls` has nothing to scroll. Otherwise the wheel scrolls.
 */
export function shareWithCanvas(whole, scrolls = whole) {
  const buttons = { pointerdown: "processMouseDown", pointermove: "processMouseMove", pointerup: "processMouseUp" };
  for (const [event, method] of Object.entries(buttons)) {
    whole.addEventListener(event, (e) => (e.button === 1 || e.buttons === 4) && app.canvas[method](e));
  }
  whole.addEventListener("wheel", (event) => {
    event.stopPropagation();
    const isSideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !isSideways && scrolls.scrollHeight > scrolls.clientHeight) return;
    event.preventDefault();
    app.canvas.processMouseWheel(event);
  });
  // Nodes 2.0 gives the wheel only to what has the focus. Nobody who types elsewhere loses it.
  scrolls.dataset.captureWheel = "true";
  scrolls.tabIndex = -1;
  whole.addEventListener("pointerenter", () => {
    const isTyping = document.activeElement?.matches("input, textarea, [contenteditable]");
    if (!isTyping && !whole.contains(document.activeElement)) scrolls.focus({ preventScroll: true });
  });
  whole.addEventListener("pointerleave", () => document.activeElement === scrolls && scrolls.blur());
}
