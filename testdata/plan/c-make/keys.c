/* Prints the names of a JSON object, one a line. */
#include <jansson.h>
#include <stdio.h>

int main(void)
{
    json_error_t error;
    json_t *object = json_loadf(stdin, 0, &error);
    if (!json_is_object(object)) {
        fprintf(stderr, "line %d: %s\n", error.line, object ? "no object" : error.text);
        return 1;
    }
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
        puts(key);
    json_decref(object);
    return 0;
}
