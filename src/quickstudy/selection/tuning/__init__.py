"""Tuning: settings of a learner and its training, tried and scored on validation tasks.

tune            settings that are sampled, tried and scored
problem         what all trials share; space is what they try
trials          runs them, each a trial; storage keeps them, also for several processes
tuned           the best of them, and whether that is better than before
"""
