"""Pretrained backbones: networks whose weights come from elsewhere, known by name and hash.

``quickstudy.pretrained(name)`` gives one. The facts about each (:data:`~.registry.CARDS`) are read
without torch. ``module.pretrained_source`` says where a module's weights come from, and
:func:`~.source.unchanged` whether they still are those.
"""
