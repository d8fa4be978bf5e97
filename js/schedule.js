// Which mask at which time, on Progressive Mask Dilate: it follows the widgets before anything runs.
import { showOutputs } from "./lib/display.js";
import { createBar, inPercent, schedules } from "./lib/schedule_bar.js";
import { SHAPING, sharesAsked } from "./lib/stage_shares.js";
import { valueOf, watchWidgets } from "./lib/widgets.js";
import { t } from "./lib/words.js";

const HEIGHT = 62;

/** Progressive Mask Dilate: known from its widgets alone, or else from the last run. */
function createSchedule(node) {
  const bar = createBar();
  let known;

  function draw() {
    const asked = sharesAsked(node);
    const shares = asked ?? known?.shares;
    schedules.dispatchEvent(new Event("change"));
    if (!shares) return bar.say(t("Run to see the stages."));
    const last = shares.length - 1;
    const ends = shares.map((_, i) => shares.slice(0, i + 1).reduce((sum, share) => sum + share, 0));
    const reach = (i) => (last - i) * valueOf(node, "growth");
    const span = (i) => t("{start} to {end} of the schedule", { start: inPercent(ends[i - 1] ?? 0), end: inPercent(ends[i]) });
    bar.drawStages(
      shares,
      shares.map((_, i) => (i === last ? t("mask") : asked ? `+${reach(i)}` : `${i + 1}`)),
      shares.map((_, i) => {
        if (i === last) return t("Your mask: {span}", { span: span(i) });
        return asked ? t("{reach} latent pixels beyond your mask: {span}", { reach: reach(i), span: span(i) }) : span(i);
      }),
    );
    bar.say(last > 0 ? t("your mask from {start}", { start: inPercent(ends[last - 1]) }) : t("your mask throughout"));
  }

  watchWidgets(node, SHAPING, draw);
  requestAnimationFrame(draw);
  return {
    element: bar.element,
    height: () => HEIGHT,
    show([timeline]) {
      known = timeline;
      draw();
    },
  };
}

showOutputs({ name: "BlendedLatent.Schedule", kind: "ProgressiveMaskDilate", key: "schedule", create: createSchedule });
