def job(name, count):
    return {"job": name, "count": count}
