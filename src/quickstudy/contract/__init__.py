"""The contract: laws that every learner must keep, and functions that test them."""
