"""One question a file: `python run.py bench NAME`. What several of them share is in the files that begin with an underscore."""

from host.pack import prepare

prepare()
