import { isLinked, valueOf } from "./widgets.js";

/** `INSET_ENDS` in bld/schedule.py. */
const INSET_ENDS = 0.6;

/**
 * The pieces of the schedule in order: the stage of each, whether broad parts of the mask start inside their edge in it, and its share. The same rule
 * as in bld/schedule.py, so that the time line follows the widgets before anything runs; a test holds the two together.
 */
export function piecesOf(stages, takeover, spacing, isInset) {
  const at = isInset ? INSET_ENDS : 0;
  let end = 0;
  const pieces = stageShares(stages, takeover, spacing).flatMap((share, stage) => {
    const start = end;
    end += share;
    return [
      { stage, inset: true, share: Math.min(end, at) - start },
      { stage, inset: false, share: end - Math.max(start, at) },
    ];
  });
  return pieces.filter(({ share }) => share > 1e-9);
}

function stageShares(stages, takeover, spacing) {
  const weights = Array.from({ length: stages }, (_, i) => (spacing === "eased" ? stages - i : 1));
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  return [...weights.map((weight) => (takeover * weight) / whole), stages > 0 ? 1 - takeover : 1];
}

/** The widgets of Progressive Mask Dilate that decide its shares and how wide its masks are. */
export const SHAPING = ["stages", "growth", "takeover", "spacing", "where", "inset"];

/** The pieces of the schedule that a Progressive Mask Dilate's widgets ask for; undefined where they are linked, so that only a run can tell. */
export function piecesAsked(node) {
  if (SHAPING.some((name) => isLinked(node, name))) return undefined;
  const [stages, takeover, spacing, where, inset] = ["stages", "takeover", "spacing", "where", "inset"].map((name) => valueOf(node, name));
  return piecesOf(stages, takeover, spacing, where === "thin parts" && inset > 0);
}
