"""The experiments that show what ALRC does; needs ``pip install "alrc[lab]"``.

A task says what is learned, an arm what is done to losses and gradients; a study trains each with
each, and a report compares them::

    cli  ->  report, exec  ->  engine  ->  api  <-  tasks, arms
"""
