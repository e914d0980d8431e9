"""The laws that every learner keeps, and running them."""
