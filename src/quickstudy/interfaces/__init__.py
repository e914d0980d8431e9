"""The interfaces to users: command line, run folders, scikit-learn estimator."""
