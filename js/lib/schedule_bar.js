// The schedule of masks as a bar from pure noise to none: its stages, the steps of a run below them, and a mark where the run is.
import { addStyle, element, shareWithCanvas } from "./dom.js";
import { t } from "./words.js";

addStyle(new URL("../schedule.css", import.meta.url));

const percent = (share) => `${(100 * share).toFixed(1)}%`;
export const inPercent = (share) => `${Math.round(100 * share)}%`;

/** Wide stages are blue, the mask itself is violet, as in bridge/mask_picture.py. */
const colorOf = (stage, count) => `color-mix(in oklab, #38a3e0 ${percent(count > 1 ? 1 - stage / (count - 1) : 0)}, #7c4ddb)`;

export function createBar() {
  const stages = element("div", { className: "bld-stages" });
  const steps = element("div", { className: "bld-steps" });
  const mark = element("i", { className: "bld-mark", hidden: true });
  const text = element("div", { className: "bld-when" });
  const axis = element("div", { className: "bld-axis" }, element("span", {}, t("pure noise")), text, element("span", {}, t("no noise")));
  const whole = element("div", { className: "bld-timeline" }, element("div", { className: "bld-track" }, stages, steps, mark), axis);
  shareWithCanvas(whole);

  return {
    element: whole,

    /** shares: of each stage; labels, titles: its short and its long text. */
    drawStages(shares, labels, titles) {
      stages.replaceChildren(
        ...shares.map((share, i) =>
          element("div", {
            textContent: labels[i],
            title: titles[i],
            style: { width: percent(share), background: colorOf(i, shares.length) },
            dataset: { share },
          }),
        ),
      );
    },

    /** starts: where each step starts; ofStages: its stage. */
    drawSteps(starts, ofStages) {
      steps.replaceChildren(...starts.map((start, i) => element("i", { style: { left: percent(start) }, dataset: { stage: ofStages[i] } })));
    },

    drawMark(start) {
      mark.hidden = start === undefined;
      if (start !== undefined) mark.style.left = percent(start);
    },

    say(words) {
      text.textContent = words;
    },
  };
}

/** Tells the samplers that a schedule has changed. */
export const schedules = new EventTarget();
