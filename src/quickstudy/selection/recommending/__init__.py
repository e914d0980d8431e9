"""Recommending: a race of what fits the data, and a conclusion with its evidence.

recommend       a race, finals, and a recommendation
given           from data to the problem that is raced; tables reads DataFrames and arrays
candidates      ways to learn; of_classes, of_domains, of_functions, of_named_tasks and of_rows say
                which fit which data, on_pretrained adds features of pretrained networks
plan            how the minutes are spent
race            successive halving, each candidate in a racer; finals trains the best ones anew
concluding      from the finals to a recommendation
rules           what to try first where there is too little to race on
"""
