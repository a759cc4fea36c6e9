"""The sample world: seeded, generated English data, so that ``data=sample`` needs no network.

``words`` holds the vocabulary, ``world`` people and events as structured facts, ``kinds_*`` the phrasings of
each kind of event. ``dialogues`` tells events as chats with summaries (labelled rows), ``prose`` tells others
as plain, unlabelled text, on which the embedded tiny model is pretrained.
"""
