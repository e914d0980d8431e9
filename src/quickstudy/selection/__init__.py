"""Selection: which learner for which data, by training several and testing them on the same tasks.

comparing/      trains learners and baselines, and gives a table for each protocol
recommending/   races what fits the given data, and says what to use and why
tuning/         tries settings of one learner
making          makes learners from their cards and settings, for all of these
"""
