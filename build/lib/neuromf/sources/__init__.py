"""Where scans come from: any folder, a BIDS folder, a table. Each gives rows, one per scan, to `neuromf.cohort`.

A row is a dict of scan, person, file, mask, sex, age, site and problem, as the columns of the cohort's table. What
can be told to be wrong with one scan stands in its problem, as "kind: what happened", and the others go on; what
is wrong with a whole source is a ValueError. No column of anyone's own table is copied but those a row has.
Standard library only, since the workflow lists the scans before any job runs.
"""
