"""The experiments that show what ALRC does; needs ``pip install "alrc[lab]"``.

A task (data, network, loss) and a run's configuration go in; a run (losses, limits) comes out::

    data, preprocessing, networks  ->  tasks  ->  training  ->  figures, demo  ->  commands
"""
