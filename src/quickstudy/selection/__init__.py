"""Selection: which learner for which data, by training several and testing them on the same tasks.

comparison   the table: learners and baselines, their results, and every pair of them
"""
