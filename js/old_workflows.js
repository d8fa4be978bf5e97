// A workflow that was saved before an input was added means what it meant then, also where the input's default is another.
import { app } from "./lib/comfy.js";

// host/workflow.py has the same; a test compares what both make of such a workflow.
const BEFORE = {
  ProgressiveMaskDilate: { where: "everywhere", inset: 0 },
  DecoderFinetuneReconstruct: { keep_thin_edits: false },
};

app.registerExtension({
  name: "BlendedLatent.OldWorkflows",

  nodeCreated(node) {
    const meant = BEFORE[node.constructor.comfyClass];
    if (!meant) return;
    const { onConfigure } = node;
    node.onConfigure = function (saved) {
      onConfigure?.call(this, saved);
      const count = saved.widgets_values?.length;
      if (!count) return;
      for (const [name, value] of Object.entries(meant)) {
        const place = this.widgets.findIndex((widget) => widget.name === name);
        if (place >= count) this.widgets[place].value = value;
      }
    };
  },
});
