// The curve of a fit while it runs: how close the background gets to the source, and the loss.
import { element } from "./dom.js";
import { t } from "./words.js";

const WIDTH = 200;
const HEIGHT = 60;
const SVG = "http://www.w3.org/2000/svg";

/** Two lines over the steps, each from its least to its largest value. A step that does not follow the last one starts a new curve. */
export class FitCurve {
  #steps = [];
  #text = element("div", { className: "bld-fit-text" });
  #background = line("bld-fit-background");
  #loss = line("bld-fit-loss");

  constructor() {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(this.#loss, this.#background);
    this.element = element("div", { className: "bld-fit", hidden: true }, svg, this.#text);
  }

  add(step) {
    if (step.step !== this.#steps.length + 1) this.#steps = [];
    this.#steps.push(step);
    this.element.hidden = false;
    this.#background.setAttribute("points", this.#points((one) => one.background));
    this.#loss.setAttribute("points", this.#points((one) => Math.log(one.loss)));
    const place = t("Step {step} of {steps}", step);
    const level = step.background === null ? "" : t("background {value} dB", { value: step.background.toFixed(1) });
    const loss = t("loss {value}", { value: step.loss.toPrecision(3) });
    this.element.title = [place, level, loss].filter(Boolean).join(", ");
    this.#text.replaceChildren(
      element("span", {}, place),
      element("span", { className: "bld-fit-background" }, level),
      element("span", { className: "bld-fit-loss" }, loss),
    );
  }

  #points(valueOf) {
    const values = this.#steps.map(valueOf);
    const known = values.filter(Number.isFinite);
    const [least, most] = [Math.min(...known), Math.max(...known)];
    const last = Math.max(this.#steps[0].steps - 1, 1);
    const at = (value, i) => `${((WIDTH * i) / last).toFixed(1)},${(HEIGHT - 4 - ((HEIGHT - 8) * (value - least)) / (most - least || 1)).toFixed(1)}`;
    return values.flatMap((value, i) => (Number.isFinite(value) ? [at(value, i)] : [])).join(" ");
  }
}

function line(className) {
  const made = document.createElementNS(SVG, "polyline");
  made.setAttribute("class", className);
  return made;
}
