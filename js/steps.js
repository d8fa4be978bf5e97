// When each step takes place and which mask it has, on Blended Latent KSampler. Where the steps fall depends on the model, so that only a run
// can tell; before one, the display shows the stages that the schedule asks for.
import { showOutputs } from "./lib/display.js";
import { nodesBefore } from "./lib/graph.js";
import { createBar, inPercent, schedules } from "./lib/schedule_bar.js";
import { piecesAsked } from "./lib/stage_shares.js";
import { isLinked, valueOf, watchWidgets } from "./lib/widgets.js";
import { t } from "./lib/words.js";

const HEIGHT = 70;
const DECIDING = ["steps", "sampler_name", "scheduler", "denoise"];
const inSteps = (count) => (count === 1 ? t("1 step") : t("{count} steps", { count }));

/** Blended Latent KSampler: the steps of the last run, as long as what decides them is as it was; before that the stages that are asked for. */
function createRun(node) {
  const bar = createBar();
  let run;

  // One stage without a schedule; undefined where only a run can tell.
  const asked = () => {
    if (!isLinked(node, "mask_schedule")) return [1];
    const [schedule] = nodesBefore(node, ["mask_schedule"]);
    return schedule?.constructor.comfyClass === "ProgressiveMaskDilate" ? piecesAsked(schedule)?.map(({ share }) => share) : undefined;
  };
  const isSame = (shares) => shares.length === run.shares.length && shares.every((share, i) => Math.abs(share - run.shares[i]) < 1e-6);
  const isStale = (shares) =>
    DECIDING.some((name) => !isLinked(node, name) && valueOf(node, name) !== run.settings[name]) || (shares && !isSame(shares));

  function draw() {
    // A node that is no longer in a graph, or not yet, has no wires to follow.
    if (!node.graph) return;
    const shares = asked();
    bar.drawMark(undefined);
    if (!run || isStale(shares)) {
      const known = shares ?? [];
      bar.drawStages(known, known.map(() => ""), known.map(inPercent));
      bar.drawSteps([], []);
      return bar.say(t("Run to see the steps."));
    }
    const last = run.shares.length - 1;
    const counts = run.shares.map((_, stage) => run.stages.filter((one) => one === stage).length);
    bar.drawStages(
      run.shares,
      counts.map((count) => (count ? `${count}` : "")),
      counts.map((count, i) => {
        const values = { stage: i + 1, covered: inPercent(run.covers[i]), steps: inSteps(count) };
        return i === last ? t("The mask itself, {covered} of the latent: {steps}", values) : t("Stage {stage}, {covered} of the latent: {steps}", values);
      }),
    );
    bar.drawSteps(run.starts, run.stages);
    bar.say(inSteps(run.starts.length));
  }

  watchWidgets(node, DECIDING, draw);
  schedules.addEventListener("change", draw);
  requestAnimationFrame(draw);
  return {
    element: bar.element,
    height: () => HEIGHT,
    show([steps]) {
      run = steps;
      draw();
    },
    hear({ steps, step }) {
      if (steps) {
        run = steps;
        draw();
      } else if (run) {
        bar.drawMark(run.starts[step]);
        bar.say(t("step {step} of {steps}", { step: step + 1, steps: run.starts.length }));
      }
    },
    stop: draw,
    remove: () => schedules.removeEventListener("change", draw),
  };
}

showOutputs({
  name: "BlendedLatent.Steps",
  kind: "BlendedLatentKSampler",
  key: "steps",
  create: createRun,
  event: "blended_latent.sampling",
});
