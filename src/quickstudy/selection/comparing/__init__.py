"""Comparing: learners are trained and tested on the same tasks, and every pair is judged.

compare         trains learners and baselines, and gives a table for each protocol
contenders      what is compared; fitting trains learners, simple makes baselines; budget: how long
contest         tests them on the same tasks until every pair is decided; distinct: no two are one
comparison      the table; compared fills it, words tells it, stored keeps it; display: progress
"""
