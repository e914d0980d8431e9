"""Tests that check your own learner against the contract; see ``docs/contract.md``."""

from quickstudy.base.errors import BrokenLaw
from quickstudy.contract.check import LAWS, applicable, check_laws, check_learner
from quickstudy.contract.laws import Law

__all__ = ["LAWS", "BrokenLaw", "Law", "applicable", "check_laws", "check_learner"]
