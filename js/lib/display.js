// What a run computed, shown on its node: after the run, after a reload, an undo or a change of the workflow's tab, and in subgraphs.
import { api, app } from "./comfy.js";

/**
 * Gives every node of one kind a display under its widgets. A display is not saved with the workflow: it shows the node's last output.
 *
 * name: of the extension, "BlendedLatent.Gallery".
 * kind: the node's id, "ClipRankBatch".
 * key: where the node's `ui` output holds what the display shows.
 * create(node) -> { element, show(values), height() }: `show` gets the list under the key. `height` is the least height in pixels that the
 * display needs now. A display calls `node.graph?.setDirtyCanvas(true, true)` when that changes.
 * event: what the server sends to one of the nodes while it runs, if anything: `bridge/comfy_internals.py` tells, display.hear(data) gets it,
 * and display.stop() is called where a run ends: another workflow's, too, whose nodes have the same ids.
 * A display that leaves something outside its node has remove(), which is called when the node goes.
 */
export function showOutputs({ name, kind, key, create, event }) {
  const displays = new WeakMap();
  const elements = new Map();
  const isOurs = (node) => node.constructor.comfyClass === kind;

  function show(node, output) {
    if (!output?.[key] || !displays.has(node)) return false;
    displays.get(node).show(output[key]);
    return true;
  }

  if (event) {
    api.addEventListener(event, ({ detail }) => displays.get(nodeOfExecution(detail.node))?.hear(detail));
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, () => allNodes().forEach((node) => displays.get(node)?.stop()));
    }
  }

  app.registerExtension({
    name,

    nodeCreated(node) {
      if (!isOurs(node)) return;
      const display = create(node);
      displays.set(node, display);
      addDisplay(node, key, display);
      const { onConfigure, onExecuted, onRemoved } = node;
      // A combination among the inputs, once it is given its saved value, makes the node as small as it can be.
      node.onConfigure = function (saved) {
        onConfigure?.call(this, saved);
        if (saved.size) node.setSize([saved.size[0], Math.max(saved.size[1], node.size[1])]);
      };
      node.onExecuted = function (output) {
        onExecuted?.call(this, output);
        show(node, output);
      };
      node.onRemoved = function (...values) {
        display.remove?.();
        return onRemoved?.apply(this, values);
      };
    },

    onNodeOutputsUpdated(outputs) {
      for (const node of allNodes().filter(isOurs)) show(node, outputs[locatorOf(node)]);
    },

    async afterConfigureGraph() {
      for (const node of allNodes().filter(isOurs)) takePlace(elements, locatorOf(node), displays.get(node).element);
      const empty = allNodes().filter((node) => isOurs(node) && !show(node, app.nodeOutputs[locatorOf(node)]));
      if (!empty.length) return;
      for (const [id, output] of Object.entries(await lastOutputs())) {
        const node = nodeOfExecution(id);
        if (empty.includes(node)) show(node, output);
      }
    },
  });
}

/**
 * A widget that only shows: it is neither saved nor sent, and it is the node's last, so the saved values of the others keep their places.
 * Its name is none of theirs: Nodes 2.0 would take it for the input of that name.
 */
function addDisplay(node, name, { element, height }) {
  const widget = node.addDOMWidget(`bld_${name}`, `bld_${name}`, element, { serialize: false, hideInPanel: true, hideOnZoom: false, getMinHeight: height });
  widget.serialize = false;
}

/**
 * Puts an element where an earlier one of the same node stands: after an undo, Nodes 2.0 draws a node that has the id of one before with the
 * elements of that one.
 */
function takePlace(elements, locator, element) {
  const earlier = elements.get(locator);
  elements.set(locator, element);
  requestAnimationFrame(() => !element.isConnected && earlier?.replaceWith(element));
}

/** Every node of the workflow, those in its subgraphs included. */
export const allNodes = () => [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap((graph) => graph.nodes);

/** The name that the frontend files a node's outputs under. */
const locatorOf = (node) => (node.graph.isRootGraph ? `${node.id}` : `${node.graph.id}:${node.id}`);

/** The node that the server knows as "5", or in subgraphs as "12:5"; undefined if the workflow has none. */
export function nodeOfExecution(id) {
  return id.split(":").reduce((place, part) => (place?.subgraph ?? place)?.getNodeById?.(Number(part)), app.rootGraph);
}

/** The outputs of this workflow's last run that the server still remembers, by execution id. */
async function lastOutputs() {
  const { id } = app.rootGraph;
  // A graph that was never saved or loaded has the same id as any other such graph.
  if (/^[0-]*$/.test(id)) return {};
  const query = new URLSearchParams({ workflow_id: id, status: "completed", limit: "1" });
  const found = await api.fetchApi(`/jobs?${query}`);
  const [job] = found.ok ? (await found.json()).jobs : [];
  return job ? ((await api.getJobDetail(job.id))?.outputs ?? {}) : {};
}
