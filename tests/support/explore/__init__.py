"""Every schedule of a few hosts, on a simulated file server with the weaknesses of NFS.

`tasks` runs threads one at a time, `server` is what they ask, `world` is the hosts and what has
to be true, `search` goes through the schedules, `story` tells one of them to people.
"""
