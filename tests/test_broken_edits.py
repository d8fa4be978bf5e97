"""An edit that fails leaves a server as it was. A share of what `python run.py bench endurance` does at length."""

from __future__ import annotations

from functools import partial

import pytest

from bench import _trials


@pytest.mark.server
def test_an_edit_that_fails_in_the_middle_of_the_fit_leaves_the_server_as_it_was(host, monkeypatch):
    monkeypatch.setattr(_trials, "the_host", lambda: host)
    with _trials.watched() as (_, client):
        fault = {"where": "decoder", "after": 3, "kind": "error"}
        how, left = _trials.left_by(client, partial(_trials.failed, client, 3, fault))
    assert (how, left) == ("error in decoder: failed in DecoderFinetuneReconstruct", [])
