// The widgets of a node: their values, and when these change.
export const valueOf = (node, name) => node.widgets?.find((widget) => widget.name === name)?.value;

/** Whether another node gives the value. */
export const isLinked = (node, name) => node.inputs?.some((input) => input.name === name && input.link != null);

/** Calls `draw` after each change of a widget's value, whoever makes it, and of a wire at one of the node's inputs. */
export function watchWidgets(node, names, draw) {
  const { onConnectionsChange } = node;
  node.onConnectionsChange = function (...values) {
    onConnectionsChange?.apply(this, values);
    draw();
  };
  for (const widget of node.widgets?.filter(({ name }) => names.includes(name)) ?? []) {
    const before = widget.callback;
    widget.callback = function (...values) {
      const result = before?.apply(this, values);
      draw();
      return result;
    };
  }
}
