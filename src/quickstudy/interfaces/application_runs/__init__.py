"""Runs of applications: the same commands as for classes of pictures, for every other answer.

recipe      every setting of such a run; an application's own options are among them
made        applications, and the parts of a run, from a recipe
folder      its folder
execute     training, evaluation and the report
adapting    a predictor from a user's labelled files, and what it says about others
own_files   which of the user's files a run read
comparing   finished runs side by side
"""
