from lib.jobs import job


def run(names):
    for name in sorted(set(names)):
        yield job(name, names.count(name))
