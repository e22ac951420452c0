"""Version 1.1 replaces 1.0 on both hosts, one after the other, under load."""

import dataclasses
import time
from pathlib import Path

import pytest

from export.package import write_archive
from tests.hosts.conftest import Farm, outcomes
from tests.tiny_model import CONFIG, write_tiny_model

pytestmark = [pytest.mark.hosts, pytest.mark.server]

USERS = 8
LONGEST_S = 900
SETTLED_S = 4


def test_rolling_update_costs_no_request(farm: Farm, tmp_path: Path) -> None:
    """Every request is answered with the report, by one host or the other, over HTTP and gRPC; none is sent again.

    Clients do not try again; once both hosts have the new version, no answer is of the old one.
    """
    # The version changes nothing in its reports.
    model = write_tiny_model(tmp_path / CONFIG.name, dataclasses.replace(CONFIG, version="1.1"))
    store = write_archive(model, tmp_path / "store", batching="in-flight", slots=8).parent
    load = farm.load(USERS, LONGEST_S, {"num_beams": 2}, ways="http,grpc")
    for number in range(2):
        time.sleep(SETTLED_S)
        assert farm.update(number, store) == "1.1"
    updated = time.time()
    time.sleep(SETTLED_S)
    load.terminate()
    found = outcomes(load)

    failed = [one for one in found if one["status"] != 200]
    ways = {way: sum(one["way"] == way for one in found) for way in ("http", "grpc")}
    print(f"rolling update: {len(found)} requests ({ways}), {len(failed)} failed, {farm.passed_on(0)} passed on")
    assert not failed
    assert min(ways.values()) > USERS
    assert len({one["report"] for one in found}) == 1
    for way in ways:
        assert {one["version"] for one in found if one["way"] == way} == {"1.0", "1.1"}
        assert {one["version"] for one in found if one["way"] == way and one["begin"] >= updated} == {"1.1"}
    decoded = farm.decoded()
    assert {decoded[one["id"]] for one in found} == {1}
