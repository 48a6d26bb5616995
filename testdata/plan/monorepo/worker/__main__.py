from worker.run import run

if __name__ == "__main__":
    for line in run(["mail", "index", "mail"]):
        print(line)
