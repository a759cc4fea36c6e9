"""The sample world: seeded, generated English data, from which the package's sample data (``data=sample``) are made.

``words`` holds the vocabulary, ``world`` people and events as structured facts, ``kinds_*`` the phrasings of each
kind of event, ``genres`` facts that are told in one sentence, in part or asked for, ``reviews`` opinions, ``schemas``
tables and queries. Labelled rows come from ``dialogues`` (SAMSum), ``glue``, ``triples`` (DART) and ``databases``
(Spider); ``baselines`` answers without a model. ``prose`` tells other things as plain, unlabelled text, on which the
embedded tiny model is pretrained.
"""
