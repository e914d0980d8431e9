"""The contract for your own learners; see ``docs/contract.md``."""

from quickstudy.contract.check import applicable, check_laws, check_learner
from quickstudy.contract.laws import LAWS, BrokenLaw, Law

__all__ = ["LAWS", "BrokenLaw", "Law", "applicable", "check_laws", "check_learner"]
