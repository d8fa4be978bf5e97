import { isLinked, valueOf } from "./widgets.js";

/**
 * How much of the schedule each stage takes, the mask itself last. The same rule as `stage_shares` in bld/schedule.py, so that the time line
 * follows the widgets before anything runs; a test holds the two together.
 */
export function stageShares(stages, takeover, spacing) {
  const weights = Array.from({ length: stages }, (_, i) => (spacing === "eased" ? stages - i : 1));
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  return [...weights.map((weight) => (takeover * weight) / whole), stages > 0 ? 1 - takeover : 1];
}

/** The widgets of Progressive Mask Dilate that decide its shares and how wide its masks are. */
export const SHAPING = ["stages", "growth", "takeover", "spacing", "where"];

/** The shares that a Progressive Mask Dilate's widgets ask for; undefined where they are linked, so that only a run can tell. */
export const sharesAsked = (node) =>
  SHAPING.some((name) => isLinked(node, name)) ? undefined : stageShares(...["stages", "takeover", "spacing"].map((name) => valueOf(node, name)));
