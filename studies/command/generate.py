"""Pythia's e+ e- events at the Z by a card, as a program that knows nothing of simgen.

`python generate.py CARD EVENTS SEED OUT`: CARD holds Pythia's settings, OUT becomes (1 - thrust,
charged particles) of each event, CSV.
"""

from __future__ import annotations

import csv
import sys

import pythia8mc


def main(card: str, events: int, seed: int, out: str) -> None:
    """Generates the events of a card."""
    pythia = pythia8mc.Pythia("", False)
    if not pythia.readFile(card):
        sys.exit(f"Pythia does not take {card}")
    for setting in ("Random:setSeed = on", f"Random:seed = {seed}"):
        pythia.readString(setting)
    if not pythia.init():
        sys.exit("Pythia cannot start with this card")
    thrust = pythia8mc.Thrust(2)  # of what is visible
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["tau", "n_charged"])
        for _ in range(events):
            while not pythia.next():
                continue
            thrust.analyze(pythia.event)
            charged = sum(1 for p in pythia.event if p.isFinal() and p.isCharged())
            writer.writerow([1 - thrust.thrust(), charged])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
