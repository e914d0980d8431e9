"""Many tasks at once: when does learning them together help, and whom does it hurt?

Made-up schools, in groups that are alike, with a few that are like no other. One network is shared
by all schools, with a head for each; beside it, each school has a network of its own. The judgement
compares them school by school, on pupils that neither has seen.
"""

import torch

import quickstudy as qs


def main(steps: int = 600) -> None:
    schools = qs.tasks.related(tasks=16, clusters=2, noise=0.5, rows=60, harmful=2)
    print(schools)
