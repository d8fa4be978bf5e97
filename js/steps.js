// When each step takes place and which mask it has, on Blended Latent KSampler. Where the steps fall depends on the model, so that only a run
// can tell; before one, the display shows the stages that the schedule asks for.
import { showOutputs } from "./lib/display.js";
import { nodesBefore } from "./lib/graph.js";
import { createBar, inPercent, schedules } from "./lib/schedule_bar.js";
import { sharesAsked } from "./lib/stage_shares.js";
import { isLinked, valueOf, watchWidgets } from "./lib/widgets.js";

const HEIGHT = 70;
const DECIDING = ["steps", "sampler_name", "scheduler", "denoise"];
const inSteps = (count) => `${count} ${count === 1 ? "step" : "steps"}`;

/** Blended Latent KSampler: the steps of the last run, as long as what decides them is as it was; before that the stages that are asked for. */
function createRun(node) {
  const bar = createBar();
  let run;

  const asked = () => {
    const [schedule] = nodesBefore(node, ["mask_schedule"]);
    return schedule?.constructor.comfyClass === "ProgressiveMaskDilate" ? sharesAsked(schedule) : undefined;
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
      const known = shares ?? [1];
      bar.drawStages(known, known.map(() => ""), known.map(inPercent));
      bar.drawSteps([], []);
      return bar.say("Run to see the steps.");
    }
    const last = run.shares.length - 1;
    const counts = run.shares.map((_, stage) => run.stages.filter((one) => one === stage).length);
    bar.drawStages(
      run.shares,
      counts.map((count) => (count ? `${count}` : "")),
      counts.map((count, i) => `${i === last ? "The mask itself" : `Stage ${i + 1}`}, ${inPercent(run.covers[i])} of the latent: ${inSteps(count)}`),
    );
    bar.drawSteps(run.starts, run.stages);
    bar.say(inSteps(run.starts.length));
  }

  watchWidgets(node, DECIDING, draw);
  schedules.addEventListener("change", draw);
  const before = node.onRemoved;
  node.onRemoved = function (...values) {
    schedules.removeEventListener("change", draw);
    return before?.apply(this, values);
  };
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
        bar.say(`step ${step + 1} of ${run.starts.length}`);
      }
    },
    stop: draw,
  };
}

showOutputs({
  name: "BlendedLatent.Steps",
  kind: "BlendedLatentKSampler",
  key: "steps",
  create: createRun,
  event: "blended_latent.sampling",
});
