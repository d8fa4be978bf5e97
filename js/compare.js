// Before and after on Decoder Finetune Reconstruct and Edit Report: layers under a slider, figures beside them, and the curve of a fit.
import { showOutputs } from "./lib/display.js";
import { addStyle, element, fileUrl, shareWithCanvas } from "./lib/dom.js";
import { FitCurve } from "./lib/fit_curve.js";
import { t } from "./lib/words.js";

addStyle(new URL("./compare.css", import.meta.url));

const layers = () => ({
  source: [t("Source"), t("The source picture.")],
  decode: [t("Plain decode"), t("What VAE Decode makes of the latent.")],
  error: [t("Error"), t("How much the background differs from the source, 16 times brighter. Black means unchanged.")],
  seam: [t("Seam"), t("The mask's edge: green where it can't be seen, red where it shows.")],
});
const figuresToShow = () => [
  ["background_psnr", t("Background"), "dB", t("How close the background is to the source. Higher is better: above 40 dB a difference is hard to see; 150 means identical.")],
  ["worst_block", t("Worst block"), "dB", t("The same for the worst 16x16 pixels of the background.")],
  ["seam", t("Seam"), t("levels"), t("How visible the mask's edge is, in levels of 255. Below 1 or 2 is good.")],
  ["colour_shift", t("Color shift"), "ΔE00", t("How much the background's colors changed. 1 is just visible.")],
  ["flicker", t("Flicker"), t("levels"), t("How much the seam changed since the frame before, beyond the source's own change. 0 means steady.")],
];
const EMPTY_HEIGHT = 28;
const HEIGHT = 370;

/** The display of one node. The layer under the slider lies left of it, the result lies right of it. */
function createComparison(node) {
  let pages = [];
  let page = 0;
  let layer = "source";

  const curve = new FitCurve();
  const tabs = element("div", { className: "bld-tabs" });
  const pager = element("div", { className: "bld-pager" });
  const before = element("img", { className: "bld-before", draggable: false });
  const after = element("img", { className: "bld-after", draggable: false });
  const name = element("span", { className: "bld-name" });
  const slider = element("input", { type: "range", min: "0", max: "100", step: "0.5", value: "50", aria: { label: t("Before and after") } });
  const frame = element(
    "div",
    { className: "bld-frame" },
    after,
    before,
    element("i", { className: "bld-line" }),
    name,
    element("span", { className: "bld-name bld-right" }, t("Result")),
    slider,
  );
  const figures = element("table", { className: "bld-figures" });
  const cost = element("span", { className: "bld-cost" });
  const whole = element(
    "div",
    { className: "bld-compare", dataset: { state: "empty" } },
    element("div", { className: "bld-hint" }, t("Run to compare before and after.")),
    element("div", { className: "bld-bar" }, tabs, pager),
    element("div", { className: "bld-stage" }, frame),
    figures,
    element("div", { className: "bld-foot" }, cost, curve.element),
  );
  shareWithCanvas(whole);

  const slide = () => frame.style.setProperty("--at", `${slider.value}%`);
  slider.oninput = slide;
  slide();
  // Dragging the slider moves neither the node nor the canvas.
  slider.addEventListener("pointerdown", (event) => event.button === 0 && event.stopPropagation());
  // The keys that move it would also move the selected node.
  slider.addEventListener("keydown", (event) => /^(Arrow|Page|Home|End)/.test(event.key) && event.stopPropagation());
  after.onload = () => frame.style.setProperty("--ratio", after.naturalWidth / after.naturalHeight);

  function draw() {
    const { files, figures: measured, place, count, run } = pages[page];
    const known = layers();
    const shown = Object.keys(known).filter((key) => files[key]);
    if (!shown.includes(layer)) layer = shown[0];
    tabs.replaceChildren(
      ...shown.map((key) =>
        element("button", {
          textContent: known[key][0],
          title: known[key][1],
          dataset: { layer: key },
          aria: { pressed: String(key === layer) },
          onclick: () => choose(key),
        }),
      ),
    );
    after.src = fileUrl(files.result);
    before.src = fileUrl(files[layer]);
    name.textContent = known[layer][0];
    pager.replaceChildren(...(pages.length > 1 ? [turn("‹", -1), t("{place} of {count}", { place, count }), turn("›", 1)] : []));
    figures.replaceChildren(...rows(measured));
    cost.textContent = run.method ? `${run.method}, ${run.seconds.toFixed(run.seconds < 10 ? 1 : 0)} s` : "";
    cost.title = run.report ?? "";
  }

  function turnTo(state) {
    whole.dataset.state = state;
    node.graph?.setDirtyCanvas(true, true);
  }

  function choose(key) {
    layer = key;
    draw();
  }

  const turn = (text, by) =>
    element("button", {
      textContent: text,
      aria: { label: by > 0 ? t("Next picture") : t("Previous picture") },
      disabled: !pages[page + by],
      onclick: () => {
        page += by;
        draw();
      },
    });

  return {
    element: whole,
    height: () => (whole.dataset.state === "empty" ? EMPTY_HEIGHT : HEIGHT),

    show(runs) {
      // Of a list, each entry is a run of its own; of a large batch, not every picture is shown.
      const count = runs.reduce((sum, run) => sum + run.count, 0);
      const before = runs.map((_, i) => runs.slice(0, i).reduce((sum, run) => sum + run.count, 0));
      pages = runs.flatMap((run, i) => run.pictures.map((picture) => ({ ...picture, place: before[i] + picture.number, count, run })));
      page = Math.min(page, pages.length - 1);
      turnTo("done");
      draw();
    },

    hear(step) {
      curve.add(step);
      turnTo("fitting");
      for (const file of step.files) after.src = fileUrl(file);
    },

    stop() {
      turnTo(pages.length ? "done" : "empty");
      if (pages.length) draw();
    },
  };
}

/** The rows of the table: a figure each, a column for each picture that is measured. */
function rows(measured) {
  const columns = Object.keys(measured);
  const head = element("tr", {}, element("th"), ...columns.map((key) => element("th", {}, key === "decode" ? t("Decode") : t("Result"))));
  return [
    head,
    ...figuresToShow().filter(([key]) => key !== "flicker" || typeof measured.result[key] === "number").map(([key, label, unit, help]) =>
      element(
        "tr",
        { title: help, dataset: { figure: key } },
        element("td", {}, label, element("small", {}, ` ${unit}`)),
        ...columns.map((column) => element("td", { dataset: { of: column, value: measured[column][key] } }, inWords(measured[column][key]))),
      ),
    ),
  ];
}

const inWords = (value) => (value === null ? "–" : value >= 100 ? value.toFixed(0) : value.toFixed(2));

showOutputs({
  name: "BlendedLatent.Reconstruct",
  kind: "DecoderFinetuneReconstruct",
  key: "comparison",
  create: createComparison,
  event: "blended_latent.fit",
});
showOutputs({ name: "BlendedLatent.EditReport", kind: "EditReport", key: "comparison", create: createComparison });
