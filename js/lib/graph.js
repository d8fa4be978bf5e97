// Ways through the graph, also across the borders of subgraphs, and values of other nodes.
import { app } from "./comfy.js";
import { allNodes } from "./display.js";

// The frontend gives this number to the node that stands for a subgraph's inputs.
const isFromOutside = (link) => Number(link.origin_id) === -10;

/** The nodes that lie before a node, nearest first. `names` are the inputs to start from; without them, all. */
export function* nodesBefore(node, names) {
  const seen = new Set();
  let sources = node.inputs.filter((input) => !names || names.includes(input.name)).flatMap((input) => sourcesOf(node.graph, input.link));
  while (sources.length) {
    const fresh = [...new Set(sources)].filter((source) => !seen.has(source));
    yield* fresh;
    fresh.forEach((source) => seen.add(source));
    sources = fresh.flatMap((source) => source.inputs.flatMap((input) => sourcesOf(source.graph, input.link)));
  }
}

/** The nodes that a link comes from: one, or those that feed every use of the subgraph that it lies in. */
function sourcesOf(graph, id) {
  const link = id == null ? null : graph.getLink(id);
  if (!link) return [];
  if (isFromOutside(link)) return usesOf(graph).flatMap((use) => sourcesOf(use.graph, use.inputs[link.origin_slot].link));
  const source = graph.getNodeById(link.origin_id);
  if (!source?.subgraph) return source ? [source] : [];
  return source.subgraph.outputs[link.origin_slot].linkIds.flatMap((inner) => sourcesOf(source.subgraph, inner));
}

const usesOf = (subgraph) => allNodes().filter((node) => node.subgraph === subgraph);

/**
 * Sets a widget of a node to a value that stays: it is set where a subgraph shows it outside, and no longer changes after each run.
 * Returns false where another node gives the value.
 */
export function setWidget(node, name, value) {
  const input = node.inputs.find((one) => one.widget?.name === name);
  const link = input?.link == null ? null : node.graph.getLink(input.link);
  if (link && !isFromOutside(link)) return false;
  if (link) return usesOf(node.graph).map((use) => setWidget(use, use.inputs[link.origin_slot].name, value)).every(Boolean);
  const widget = node.widgets.find((one) => one.name === name);
  write(widget, value);
  const control = widget.linkedWidgets?.find((one) => one.name === "control_after_generate");
  if (control) write(control, "fixed");
  node.graph.setDirtyCanvas(true, true);
  return true;
}

/** Makes a change that one undo takes back: the frontend itself looks for changes before a click, and not after it. */
export function undoably(change) {
  app.canvas.emitBeforeChange();
  try {
    return change();
  } finally {
    app.canvas.emitAfterChange();
  }
}

function write(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}

/** A short message that goes by itself. severity: "success", "info", "warn" or "error". */
export const tell = (severity, summary, detail) => app.extensionManager.toast.add({ severity, summary, detail, life: 6000 });
