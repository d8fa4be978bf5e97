"""The translations: each has every name and text of the nodes, and no others; the real frontend shows them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from comfy_api.latest import io

from conftest import ROOT

# What every text of the language has.
LANGUAGES = {"zh": r"[\u4e00-\u9fff]", "ja": r"[\u3040-\u30ff]", "de": r"(?i)\b(der|die|das|aus|als|eine?|mit|für|und|alle|wie)\b"}
Json = dict[str, Any]


def translated(language: str) -> Json:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def inputs_of(inputs: list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and tooltip of each input, those of every choice of a combination included, as the frontend looks them up."""
    for one in inputs:
        yield prefix + one.id, one.tooltip
        if isinstance(one, io.DynamicCombo.Input):
            for option in one.options:
                yield from inputs_of(option.inputs, f"{prefix}{one.id}_")


def texts(node: Any) -> dict[str, str]:
    """Every text of a node by its place in a translation. Choices may have an input in common: theirs are put together."""
    schema = node.define_schema()
    found = {"display_name": schema.display_name, "description": schema.description}
    for key, tooltip in inputs_of(schema.inputs):
        found[f"inputs.{key}"] = f"{found.get(f'inputs.{key}', '')} {tooltip}"
    return found | {f"outputs.{index}": one.tooltip for index, one in enumerate(schema.outputs)}


def entries(node: Json) -> dict[str, Json | str]:
    """Every entry of a translated node by its place."""
    sides = {f"{side}.{key}": entry for side in ("inputs", "outputs") for key, entry in node[side].items()}
    return {"display_name": node["display_name"], "description": node["description"], **sides}


@pytest.fixture(scope="module")
def nodes(demo_pack: Any, pack: Any) -> dict[str, Any]:
    with ThreadPoolExecutor(1) as pool:  # Playwright keeps an event loop running in this thread
        found = pool.submit(asyncio.run, pack.BlendedLatentDiffusion().get_node_list()).result()
    return {node.define_schema().node_id: node for node in found}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_every_text_and_no_other(nodes, language):
    found = translated(language)
    assert set(found) == set(nodes)
    for name, node in nodes.items():
        assert set(entries(found[name])) == set(texts(node)), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_is_in_its_language_and_has_the_numbers_of_the_original(nodes, language):
    """The numbers are the paper's values, defaults and limits: a tooltip that changes them must be translated again."""
    for name, node in nodes.items():
        found = entries(translated(language)[name])
        for place, original in texts(node).items():
            text = found[place] if isinstance(found[place], str) else found[place]["tooltip"]
            assert place == "display_name" or re.search(LANGUAGES[language], text), f"{name} {place}: {text}"
            numbers = re.compile(r"\d+(?:\.\d+)?")
            assert set(numbers.findall(original)) <= set(numbers.findall(text)), f"{name} {place}: {text}"
            assert isinstance(found[place], str) or found[place]["name"], f"{name} {place} has no name"


def words() -> dict[str, list[str]]:
    """The displays' texts: English and its translations, in the order of LANGUAGES."""
    text = (ROOT / "js" / "lib" / "words.js").read_text(encoding="utf-8")
    assert re.search(r"const LANGUAGES = (.+);", text)[1] == json.dumps(list(LANGUAGES))
    return json.loads(re.search(r"const WORDS = (\{.+?\n\});", text, re.DOTALL)[1])


def in_displays(pattern: str) -> list[str]:
    """What a pattern finds in the displays' code, comments and the table of words apart."""
    code = (path.read_text(encoding="utf-8") for path in (ROOT / "js").rglob("*.js") if path.name != "words.js")
    return re.findall(pattern, re.sub(r"//.*|/\*[\s\S]*?\*/", "", "\n".join(code)))


def test_every_text_of_a_display_is_translated_and_keeps_its_values():
    table = words()
    assert set(in_displays(r"\bt\(\s*\"([^\"]+)\"")) == set(table)
    sentences = in_displays(r"(?<!\bt\()\"[A-Z][a-z]+ [^\"]*\"|`[A-Z][a-z]+ [^`]*`")
    assert sentences == [], "texts that t() is not asked for"
    for english, translations in table.items():
        assert len(translations) == len(LANGUAGES), english
        for text in translations:
            assert all(sorted(re.findall(part, text)) == sorted(re.findall(part, english)) for part in (r"\{\w+\}", r"[←→✓]")), text
            assert set(re.findall(r"\d+", english)) <= set(re.findall(r"\d+", text)), text


def test_the_frontend_shows_a_translation(ui):
    ui.renew("zh")
    ui.open("smallest_graph")
    ui.renew()  # the next test reads English
    shown = ui.page.evaluate("""() => {
        const node = app.graph.nodes.find(n => n.type === 'DecoderFinetuneReconstruct')
        return [...node.inputs.map(i => i.label ?? i.localized_name), ...node.widgets.map(w => w.label)]
    }""")
    displays = ui.page.locator(".bld-compare, .bld-timeline").all_text_contents()
    inputs = translated("zh")["DecoderFinetuneReconstruct"]["inputs"]
    assert {inputs[key]["name"] for key in ("samples", "image", "mask", "method", "method_iterations")} <= set(shown)
    chinese = {english: texts[0] for english, texts in words().items()}
    assert len(displays) == 2 and all(chinese[text] in displays[0] + displays[1] for text in ("Run to compare before and after.", "pure noise"))
