/* A directory service for one user, as plug-ins of the C library (nss(5)) and of shadow (lib/nss.c) ask one:
 * `ldap-user`, 4321, who has ids from 20000 on. */
#include <errno.h>
#include <nss.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { USER = 4321, FIRST = 20000, COUNT = 30000 };
static const char NAME[] = "ldap-user";

static enum nss_status fill(struct passwd *found, char *buffer, size_t len, int *error)
{
    if (len < sizeof NAME) {
        *error = ERANGE;
        return NSS_STATUS_TRYAGAIN;
    }
    memcpy(buffer, NAME, sizeof NAME);
    found->pw_name = buffer;
    found->pw_passwd = found->pw_gecos = buffer + sizeof NAME - 1;
    found->pw_uid = found->pw_gid = USER;
    found->pw_dir = "/";
    found->pw_shell = "/bin/sh";
    return NSS_STATUS_SUCCESS;
}

enum nss_status _nss_test_getpwuid_r(uid_t id, struct passwd *found, char *buffer, size_t len, int *error)
{
    return id == USER ? fill(found, buffer, len, error) : NSS_STATUS_NOTFOUND;
}

enum nss_status _nss_test_getpwnam_r(const char *name, struct passwd *found, char *buffer, size_t len, int *error)
{
    return strcmp(name, NAME) ? NSS_STATUS_NOTFOUND : fill(found, buffer, len, error);
}

/* shadow's answers: 0 is success, 1 an unknown user. */
struct range {
    unsigned long start, count;
};

int shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count, int kind, bool *has)
{
    (void)kind;
    *has = !strcmp(owner, NAME) && start >= FIRST && start + count <= FIRST + COUNT;
    return 0;
}

int shadow_subid_list_owner_ranges(const char *owner, int kind, struct range **ranges, int *count)
{
    (void)kind;
    *count = 0;
    *ranges = NULL;
    if (strcmp(owner, NAME))
        return 1;
    *ranges = malloc(sizeof **ranges);
    (*ranges)[0] = (struct range){FIRST, COUNT};
    *count = 1;
    return 0;
}

int shadow_subid_find_subid_owners(unsigned long id, int kind, uid_t **users, int *count)
{
    (void)kind;
    *count = id >= FIRST && id < FIRST + COUNT;
    *users = malloc(sizeof **users);
    (*users)[0] = USER;
    return 0;
}
