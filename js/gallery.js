// CLIP Rank Batch: its candidates, best first, to look at and to pick from.
import { app } from "./lib/comfy.js";
import { showOutputs } from "./lib/display.js";
import { addStyle, element, fileUrl, shareWithCanvas } from "./lib/dom.js";
import { nodesBefore, setWidget, tell, undoably } from "./lib/graph.js";
import { openLarge } from "./lib/large.js";
import { valueOf, watchWidgets } from "./lib/widgets.js";
import { t } from "./lib/words.js";

addStyle(new URL("./gallery.css", import.meta.url));

showOutputs({ name: "BlendedLatent.Gallery", kind: "ClipRankBatch", key: "gallery", create: (node) => new Gallery(node) });

class Gallery {
  #node;
  #bar = element("div", { className: "bld-gallery-bar" });
  #grid = element("div", { className: "bld-gallery-grid", role: "listbox", ariaLabel: t("Candidates"), ariaMultiSelectable: "true" });
  #candidates = [];
  // Of these there is no picture, so they can't be picked.
  #dropped = [];
  #tiles = [];
  // The candidates that the user saw when picking.
  #pickedFrom = "";
  #large;

  element = element("div", { className: "bld-gallery" }, this.#bar, this.#grid);

  constructor(node) {
    this.#node = node;
    this.#grid.addEventListener("keydown", (event) => this.#onKey(event));
    this.#grid.addEventListener("scroll", hideCard);
    shareWithCanvas(this.element, this.#grid);
    watchWidgets(node, ["pick"], () => this.#draw());
    this.#draw();
  }

  height = () => (this.#candidates.length ? 250 : 44);

  /** The candidates, best first, as bridge/clip/gallery.py describes them. */
  show(candidates) {
    this.#candidates = candidates.filter((candidate) => candidate.tile);
    this.#dropped = candidates.filter((candidate) => !candidate.tile);
    this.#pickedFrom ||= this.#shown;
    this.#tiles = this.#candidates.map((candidate, place) => this.#tile(candidate, place));
    this.#grid.replaceChildren(...this.#tiles, ...this.#dropped.map((candidate) => this.#droppedTile(candidate)));
    this.#draw();
    this.#node.graph?.setDirtyCanvas(true, true);
  }

  /** The node goes, by an undo, say, and with it what stands outside it. */
  remove() {
    hideCard();
    this.#large?.close();
  }

  // --- Picks ---

  /** The numbers in the widget, as far as they are numbers. */
  get #picks() {
    return `${valueOf(this.#node, "pick") ?? ""}`.split(",").map((part) => part.trim()).filter((part) => /^\d+$/.test(part)).map(Number);
  }

  /** What the last run returned because it was picked. */
  get #used() {
    const picked = this.#candidates.filter((candidate) => candidate.picked !== null);
    return picked.sort((one, other) => one.picked - other.picked).map((candidate) => candidate.index);
  }

  get #shown() {
    return this.#candidates.map((candidate) => candidate.tile.filename).join();
  }

  #pick(picks) {
    this.#pickedFrom = this.#shown;
    if (undoably(() => setWidget(this.#node, "pick", picks.join(",")))) this.#draw();
    else tell("warn", t("Not picked"), t("The input pick is connected, so the node behind it decides what is picked."));
  }

  #toggle(index, several) {
    const picks = this.#picks;
    const rest = picks.filter((pick) => pick !== index);
    const isPicked = rest.length < picks.length;
    if (several) this.#pick(isPicked ? rest : [...picks, index]);
    else this.#pick(isPicked && picks.length === 1 ? [] : [index]);
  }

  // --- Looks ---

  #tile(candidate, place) {
    const { score, index, out, seed, size, tile } = candidate;
    const [width, height] = size;
    const made = element(
      "div",
      { className: "bld-gallery-tile", role: "option", tabIndex: place ? -1 : 0, ariaLabel: t("Rank {rank}, candidate {index}, score {score}", { rank: place + 1, index, score: shortly(score) }) },
      element("img", { src: fileUrl(tile), alt: "", loading: "lazy", decoding: "async", draggable: false, style: { aspectRatio: `${width} / ${height}` } }),
      element("span", { className: "bld-gallery-badge" }),
      element("span", { className: "bld-gallery-label" }, element("b", {}, `${place + 1}`), element("span", {}, shortly(score)), seed === null ? null : element("small", {}, seed)),
    );
    made.classList.toggle("bld-out", out !== "");
    let before = [];
    made.onclick = (event) => {
      made.focus({ preventScroll: true });
      // The second click of a double click only enlarges.
      if (event.detail > 1) return;
      before = this.#picks;
      this.#toggle(index, event.ctrlKey || event.metaKey || event.shiftKey);
    };
    made.ondblclick = () => {
      this.#pick(before);
      this.#enlarge(place);
    };
    made.onmouseenter = () => showCard(made, this.#details(candidate, place));
    made.onmouseleave = hideCard;
    made.onfocus = () => this.#tiles.forEach((one) => (one.tabIndex = one === made ? 0 : -1));
    return made;
  }

  #droppedTile(candidate) {
    const made = element("div", { className: "bld-gallery-dropped" }, t("dropped"));
    made.onmouseenter = () => showCard(made, this.#details(candidate, null));
    made.onmouseleave = hideCard;
    return made;
  }

  #draw() {
    const picks = this.#picks;
    const isPending = this.#candidates.length > 0 && picks.join() !== this.#used.join();
    this.#tiles.forEach((tile, place) => {
      const order = picks.indexOf(this.#candidates[place].index);
      tile.classList.toggle("bld-picked", order >= 0);
      tile.ariaSelected = `${order >= 0}`;
      tile.querySelector(".bld-gallery-badge").textContent = order >= 0 ? `${order + 1}` : place === 0 && !picks.length ? "★" : "";
    });
    this.element.classList.toggle("bld-empty", !this.#candidates.length);
    this.#bar.replaceChildren(...this.#summary(picks, isPending));
  }

  #summary(picks, isPending) {
    const { length } = this.#candidates;
    if (!length) return [element("span", {}, t("Run the workflow, then pick your candidates here."))];
    const out = this.#candidates.filter((candidate) => candidate.out).length + this.#dropped.length;
    const isStale = picks.length > 0 && this.#pickedFrom !== this.#shown;
    const all = length + this.#dropped.length;
    const counts = [all > 1 ? t("{count} candidates", { count: all }) : t("1 candidate"), out ? t("{count} left out", { count: out }) : null];
    return [
      element("span", { title: t("Click: pick. Ctrl+click: pick several. Double click or Space: enlarge. Arrow keys: move. Enter: pick.") }, counts.filter(Boolean).join(", ")),
      picks.length ? element("span", { className: "bld-gallery-picks" }, t("Picked {picks}", { picks: picks.join(", ") }), this.#button("✕", t("Return the best again"), () => this.#pick([]))) : null,
      isStale ? element("span", { className: "bld-gallery-stale", title: t("You picked before these candidates were drawn.") }, t("from earlier candidates")) : null,
      isPending ? this.#button(t("Run"), t("Run the workflow with this choice"), () => app.queuePrompt(0), "bld-gallery-run") : null,
    ].filter(Boolean);
  }

  #button(text, title, onclick, className = "") {
    return element("button", { className, title, onclick, textContent: text });
  }

  /** What a score is made of: a bar for each part, green if it raises the score, red if it lowers it. */
  #details({ index, score, seed, parts, out }, place) {
    const most = Math.max(...parts.map(({ value, weight }) => Math.abs(value * weight)), 1e-9);
    const rows = parts.map(({ name, value, weight }) => {
      const share = value * weight;
      const bar = element("i", { style: { width: `${(100 * Math.abs(share)) / most}%` }, className: share < 0 ? "bld-less" : "" });
      return element("tr", {}, element("td", {}, name), element("td", {}, element("div", {}, bar)), element("td", {}, signed(share)), element("td", {}, `${shortly(value)} × ${round(weight)}`));
    });
    return element(
      "div",
      { className: "bld-details" },
      place === null ? null : element("header", {}, element("b", {}, t("Rank {rank}", { rank: place + 1 })), element("span", {}, t("candidate {index}", { index })), element("b", {}, shortly(score))),
      out ? element("p", {}, out) : null,
      score === null ? null : element("table", {}, ...rows),
      seed === null ? null : element("footer", {}, t("seed {seed}", { seed })),
    );
  }

  // --- Keys, the large picture, the seed ---

  #onKey(event) {
    const place = this.#tiles.indexOf(document.activeElement);
    if (place < 0 || event.altKey) return;
    const columns = getComputedStyle(this.#grid).gridTemplateColumns.split(" ").length;
    const last = this.#tiles.length - 1;
    const steps = { ArrowLeft: place - 1, ArrowRight: place + 1, ArrowUp: place - columns, ArrowDown: place + columns, Home: 0, End: last };
    if (event.key in steps) {
      const next = this.#tiles[Math.min(Math.max(steps[event.key], 0), last)];
      next.focus({ preventScroll: true });
      next.scrollIntoView({ block: "nearest" });
      showCard(next, this.#details(this.#candidates[this.#tiles.indexOf(next)], this.#tiles.indexOf(next)));
    } else if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) this.#toggle(this.#candidates[place].index, event.shiftKey);
    else if (event.key === " ") this.#enlarge(place);
    else if (event.key === "Escape") document.activeElement.blur();
    else return;
    // The graph must not hear these keys.
    event.preventDefault();
    event.stopPropagation();
  }

  #enlarge(start) {
    hideCard();
    this.#large = openLarge({
      count: this.#candidates.length,
      start,
      describe: (place) => {
        const candidate = this.#candidates[place];
        const isPicked = this.#picks.includes(candidate.index);
        const pick = { text: isPicked ? t("✓ Picked") : t("Pick"), title: "Enter", key: "Enter", act: () => this.#toggle(candidate.index, true) };
        const keep = {
          text: t("Keep this seed"),
          title: t("Draw this candidate alone from now on: seed {seed}", candidate),
          act: () => {
            this.#large.close();
            undoably(() => this.#keepSeed(candidate));
          },
        };
        return { src: fileUrl(candidate.large), caption: this.#details(candidate, place), actions: candidate.seed === null ? [pick] : [pick, keep] };
      },
      onClose: (place) => this.#tiles[place]?.focus({ preventScroll: true }),
    });
  }

  #keepSeed({ seed }) {
    const sampler = [...nodesBefore(this.#node, ["latents", "images"])].find((node) => node.constructor.comfyClass === "BlendedLatentKSampler");
    if (!sampler) return tell("warn", t("Seed not kept"), t("No Blended Latent KSampler lies before this node."));
    if (!setWidget(sampler, "seed", Number(seed)) || !setWidget(sampler, "candidates", 1)) {
      return tell("warn", t("Seed not kept"), t("Another node gives the sampler its seed or candidates: set seed {seed} and 1 candidate there.", { seed }));
    }
    this.#pick([]);
    tell("success", t("Seed kept"), t("{sampler} now draws one candidate with seed {seed}.", { sampler: sampler.title, seed }));
  }
}

const MARGIN = 24;
const round = (value) => `${Number(value.toFixed(2))}`;
const shortly = (value) => (value === null ? "–" : value.toFixed(4));
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(4)}`;

// --- The card with the details of the tile under the pointer, beside the gallery, so that it covers no other tile ---

const card = element("div", { className: "bld-card", role: "tooltip" });

function showCard(tile, details) {
  card.replaceChildren(details);
  document.body.append(card);
  const { left, right } = tile.closest(".bld-gallery").getBoundingClientRect();
  const { width, height } = card.getBoundingClientRect();
  const isRoomRight = right + MARGIN + width < window.innerWidth;
  card.style.left = `${isRoomRight ? right + MARGIN : Math.max(left - MARGIN - width, 8)}px`;
  card.style.top = `${Math.min(Math.max(tile.getBoundingClientRect().top, 8), window.innerHeight - height - 8)}px`;
}

function hideCard() {
  card.remove();
}
