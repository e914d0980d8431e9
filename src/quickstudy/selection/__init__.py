"""Selection: which learner for which data, by training several and testing them on the same tasks.

Comparing learners:

compare         trains learners and baselines, and gives a table for each protocol
contenders      what is compared; fitting trains learners, simple makes baselines; budget: how long
contest         tests them on the same tasks until every pair is decided
comparison      the table; compared fills it, words tells it, stored keeps it; display: progress

Recommending one for given data:

recommend       a race, finals, and a recommendation
given           from data to the problem that is raced; tables reads DataFrames and arrays
candidates      ways to learn; of_classes, of_domains, of_functions, of_named_tasks and of_rows say
                which fit which data, on_pretrained adds features of pretrained networks
plan            how the minutes are spent
race            successive halving, each candidate in a racer; finals trains the best ones anew
concluding      from the finals to a recommendation
rules           what to try first where there is too little to race on

Tuning the settings of one:

tune            settings that are sampled, tried and scored
tuning_problem  what all trials share; space is what they try
trials          runs them, each a trial; storage keeps them, also for several processes
tuned           the best of them, and whether that is better than before

All of them make learners by making.
"""
