"""The study of rounds: its table says what was measured."""

from __future__ import annotations

from studies.trust.sequential import table


def test_the_table_marks_the_best_and_lists_the_rounds() -> None:
    rounds = [
        {
            "round": k,
            "rows": 500,
            "volume": 1.0 / (1 + k),
            "drawn": "prior",
            "acceptance": 1.0 / (1 + k),
            "training_rows": 450,
            "held_out_loss": -k,
        }
        for k in range(2)
    ]
    methods = {
        "prior": {"c2st": 0.7, "seconds": 10.0},
        "rounds": {"c2st": 0.6, "seconds": 20.0, "outside": 1, "rounds": rounds},
    }
    about = {"command": "run", "versions": "1", "rows": 1000, "rounds": 2}
    lines = table({"about": about, "tasks": {"slcp:3": methods}}).splitlines()
    assert "| slcp | 3 | in rounds (`sequential`) | **0.600** | 20 | 1 |" in lines
    assert "| slcp | 3 | all from the prior | 0.700 | 10 |  |" in lines
    assert "| slcp:3 | 1 | 500 | 0.5 | prior | 0.5 | 450 | -1.000 |" in lines
