// Which mask at which time, on Progressive Mask Dilate: it follows the widgets before anything runs.
import { showOutputs } from "./lib/display.js";
import { element, shareWithCanvas } from "./lib/dom.js";
import { setWidget, undoably } from "./lib/graph.js";
import { createBar, inPercent, schedules } from "./lib/schedule_bar.js";
import { piecesAsked, SHAPING } from "./lib/stage_shares.js";
import { valueOf, watchWidgets } from "./lib/widgets.js";
import { t } from "./lib/words.js";

const HEIGHT = 92;

// A test compares both with what the node and the paper have.
const COMMON = { shape: "square", spacing: "equal", soft_edge: 0 };
const DEFAULTS = { ...COMMON, stages: 1, growth: 2, takeover: 0.95, where: "thin parts", thin: 2, inset: 0.2 };
const PAPER = { ...COMMON, stages: 3, growth: 1, takeover: 0.78, where: "everywhere", inset: 0 };

/** Buttons that set all settings at once, but for those that another node gives. */
function createPresets(node) {
  const button = (text, title, settings) => {
    const apply = () => undoably(() => Object.entries(settings).forEach(([name, value]) => setWidget(node, name, value)));
    return element("button", { textContent: text, title, onclick: apply });
  };
  const row = element(
    "div",
    { className: "bld-presets" },
    button(t("Defaults"), t("Thin parts of your mask start wide and stay so almost to the end; broad parts start inside their edge."), DEFAULTS),
    button(t("Paper"), t("The whole mask starts wide and shrinks in three stages, as in the paper."), PAPER),
  );
  shareWithCanvas(row);
  return row;
}

/** Progressive Mask Dilate: known from its widgets alone, or else from the last run. */
function createSchedule(node) {
  const bar = createBar();
  let known;

  function draw() {
    const asked = piecesAsked(node);
    const shares = asked?.map(({ share }) => share) ?? known?.shares;
    schedules.dispatchEvent(new Event("change"));
    if (!shares) return bar.say(t("Run to see the stages."));
    const last = shares.length - 1;
    const ends = shares.map((_, i) => shares.slice(0, i + 1).reduce((sum, share) => sum + share, 0));
    const reach = (i) => (valueOf(node, "stages") - asked[i].stage) * valueOf(node, "growth");
    // Only what is one latent pixel thin grows by all of it; how far the rest does, a run tells.
    const isAtMost = valueOf(node, "where") === "thin parts";
    const span = (i) => t("{start} to {end} of the schedule", { start: inPercent(ends[i - 1] ?? 0), end: inPercent(ends[i]) });
    const label = (i) => [asked[i].inset && t("inset"), reach(i) && `${isAtMost ? "≤" : "+"}${reach(i)}`].filter(Boolean).join(" ");
    const beyond = (i) => {
      const values = { reach: reach(i), span: span(i) };
      return isAtMost ? t("At most {reach} latent pixels beyond the thin parts of your mask: {span}", values) : t("{reach} latent pixels beyond your mask: {span}", values);
    };
    const inside = (i) => t("Inside the edge where your mask is broad: {span}", { span: span(i) });
    const told = (i) => [reach(i) && beyond(i), asked[i].inset && inside(i)].filter(Boolean).join("\n");
    bar.drawStages(
      shares,
      shares.map((_, i) => (i === last ? t("mask") : asked ? label(i) : `${i + 1}`)),
      shares.map((_, i) => (i === last ? t("Your mask: {span}", { span: span(i) }) : asked ? told(i) : span(i))),
    );
    bar.say(last > 0 ? t("your mask from {start}", { start: inPercent(ends[last - 1]) }) : t("your mask throughout"));
  }

  watchWidgets(node, SHAPING, draw);
  requestAnimationFrame(draw);
  return {
    element: element("div", { className: "bld-schedule" }, bar.element, createPresets(node)),
    height: () => HEIGHT,
    show([timeline]) {
      known = timeline;
      draw();
    },
  };
}

showOutputs({ name: "BlendedLatent.Schedule", kind: "ProgressiveMaskDilate", key: "schedule", create: createSchedule });
