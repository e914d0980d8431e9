"""Selection: which learner for which data, by training several and testing them on the same tasks.

comparison     the table: learners and baselines, their results, and every pair of them
recommend      what to use for given data: a race, finals, and what was measured
race           successive halving over candidates; plan says how the minutes are spent
candidates     ways to learn; of_classes, of_functions and others say which fit which data
rules          what to try first where there is too little to race on
"""
