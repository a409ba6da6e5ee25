"""What tests of boundaries share."""

import json

import pytest
from matplotlib.figure import Figure


@pytest.fixture
def measured_and_drawn(monkeypatch):
    """A boundary with smaller constants: its numbers as they come back from JSON, and the axes of its figure."""

    def of(module, **constants):
        for name, value in constants.items():
            monkeypatch.setattr(module, name, value)
        data, fig = json.loads(json.dumps(module.measure(), allow_nan=False)), Figure()
        module.draw(data, fig)
        return data, fig.axes

    return of
