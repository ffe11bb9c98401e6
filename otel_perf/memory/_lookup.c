/* The compiled twin of lookup.py: what a hit of a cached function costs.
 *
 * A look-up in a dictionary, a deadline and two counts; no Python code runs but a key's own __hash__ and __eq__, and
 * what they may do to the cache meanwhile is harmless: an entry that was found is held, whatever becomes of it. What
 * happens on a miss is decided in Python.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <structmember.h>
#include <time.h>

static PyObject *keywords_mark; /* between the positional arguments and the keywords of a key */

/* --- one entry ------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *key, *value;
    double deadline; /* by CLOCK_MONOTONIC, which is time.monotonic's; infinite without one */
    Py_ssize_t weight;
    long long used; /* since when, or how often: the policy's */
    char main;      /* of the two queues of the policy, the second */
} Entry;

static PyTypeObject EntryType;

static PyObject *
entry_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    PyObject *key, *value;
    double deadline = Py_HUGE_VAL;
    Py_ssize_t weight = 0;
    if (!PyArg_ParseTuple(args, "OO|dn:Entry", &key, &value, &deadline, &weight))
        return NULL;
    Entry *self = (Entry *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->key = Py_NewRef(key);
        self->value = Py_NewRef(value);
        self->deadline = deadline;
        self->weight = weight;
    }
    return (PyObject *)self;
}

static int
entry_traverse(Entry *self, visitproc visit, void *arg)
{
    Py_VISIT(self->key);
    Py_VISIT(self->value);
    return 0;
}

static int
entry_clear(Entry *self)
{
    Py_CLEAR(self->key);
    Py_CLEAR(self->value);
    return 0;
}

static void
entry_dealloc(Entry *self)
{
    PyObject_GC_UnTrack(self);
    entry_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyMemberDef entry_members[] = {
    {"key", T_OBJECT, offsetof(Entry, key), READONLY, NULL},
    {"value", T_OBJECT, offsetof(Entry, value), 0, NULL},
    {"deadline", T_DOUBLE, offsetof(Entry, deadline), 0, NULL},
    {"weight", T_PYSSIZET, offsetof(Entry, weight), 0, NULL},
    {"used", T_LONGLONG, offsetof(Entry, used), 0, NULL},
    {"main", T_BOOL, offsetof(Entry, main), 0, NULL},
    {NULL},
};

static PyTypeObject EntryType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "otel_perf.memory._lookup.Entry",
    .tp_basicsize = sizeof(Entry),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_new = entry_new,
    .tp_dealloc = (destructor)entry_dealloc,
    .tp_traverse = (traverseproc)entry_traverse,
    .tp_clear = (inquiry)entry_clear,
    .tp_members = entry_members,
};

/* --- a function with a cache ---------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *entries, *miss, *tokens, *dict, *weak;
    vectorcallfunc call;
    long long hits;
    char typed, method;
} Cached;

static PyTypeObject CachedType;

static double
monotonic(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

/* What stands for an instance in keys, so that no cache keeps it alive; NULL without an error if it has none yet. */
static PyObject *
token_of(Cached *self, PyObject *instance)
{
    PyObject *id = PyLong_FromVoidPtr(instance);
    if (id == NULL)
        return NULL;
    PyObject *token = Py_XNewRef(PyDict_GetItemWithError(self->tokens, id));
    Py_DECREF(id);
    return token;
}

/* The key of a call. A single string or whole number is its own key, like functools.lru_cache's. */
static PyObject *
key_of(Cached *self, PyObject *const *args, Py_ssize_t count, PyObject *names, PyObject *token)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count == 1 && named == 0 && !self->typed && token == NULL
        && (PyUnicode_CheckExact(args[0]) || PyLong_CheckExact(args[0])))
        return Py_NewRef(args[0]);
    Py_ssize_t size = count + (named ? 1 + 2 * named : 0), at = 0;
    PyObject *key = PyTuple_New(size + (self->typed ? count + named : 0));
    if (key == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++)
        PyTuple_SET_ITEM(key, at++, Py_NewRef(i == 0 && token != NULL ? token : args[i]));
    if (named)
        PyTuple_SET_ITEM(key, at++, Py_NewRef(keywords_mark));
    for (Py_ssize_t i = 0; i < named; i++) {
        PyTuple_SET_ITEM(key, at++, Py_NewRef(PyTuple_GET_ITEM(names, i)));
        PyTuple_SET_ITEM(key, at++, Py_NewRef(args[count + i]));
    }
    for (Py_ssize_t i = 0; self->typed && i < count + named; i++)
        PyTuple_SET_ITEM(key, at++, Py_NewRef((PyObject *)Py_TYPE(args[i])));
    return key;
}

static PyObject *
missed(Cached *self, PyObject *key, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    PyObject *result = NULL, *positional = PyTuple_New(count), *keywords = named ? PyDict_New() : Py_NewRef(Py_None);
    if (positional == NULL || keywords == NULL)
        goto done;
    for (Py_ssize_t i = 0; i < count; i++)
        PyTuple_SET_ITEM(positional, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; i < named; i++)
        if (PyDict_SetItem(keywords, PyTuple_GET_ITEM(names, i), args[count + i]) < 0)
            goto done;
    PyObject *miss = Py_NewRef(self->miss);
    result = PyObject_CallFunctionObjArgs(miss, key, positional, keywords, NULL);
    Py_DECREF(miss);
done:
    Py_XDECREF(positional);
    Py_XDECREF(keywords);
    return result;
}

static PyObject *
cached_vectorcall(Cached *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    Py_ssize_t count = PyVectorcall_NARGS(nargsf);
    PyObject *token = NULL, *key = NULL, *result = NULL;
    if (self->method && count > 0) {
        token = token_of(self, args[0]);
        if (token == NULL)
            return PyErr_Occurred() ? NULL : missed(self, Py_None, args, count, names);
    }
    key = key_of(self, args, count, names, token);
    if (key == NULL)
        goto done;
    Entry *entry = (Entry *)PyDict_GetItemWithError(self->entries, key);
    if (entry != NULL) {
        Py_INCREF(entry);
        if (isinf(entry->deadline) || monotonic() < entry->deadline) {
            entry->used++;
            self->hits++;
            result = Py_NewRef(entry->value);
        }
        Py_DECREF(entry);
    }
    if (result == NULL && !PyErr_Occurred())
        result = missed(self, key, args, count, names);
done:
    Py_XDECREF(token);
    Py_XDECREF(key);
    return result;
}

static PyObject *
cached_new(PyTypeObject *type, PyObject *args, PyObject *kwds)
{
    PyObject *entries, *miss;
    int typed = 0;
    if (!PyArg_ParseTuple(args, "O!O|p:Cached", &PyDict_Type, &entries, &miss, &typed))
        return NULL;
    Cached *self = (Cached *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->entries = Py_NewRef(entries);
        self->miss = Py_NewRef(miss);
        self->typed = (char)typed;
        self->call = (vectorcallfunc)cached_vectorcall;
        if ((self->tokens = PyDict_New()) == NULL)
            Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static int
cached_traverse(Cached *self, visitproc visit, void *arg)
{
    Py_VISIT(self->entries);
    Py_VISIT(self->miss);
    Py_VISIT(self->tokens);
    Py_VISIT(self->dict);
    return 0;
}

static int
cached_clear(Cached *self)
{
    Py_CLEAR(self->entries);
    Py_CLEAR(self->miss);
    Py_CLEAR(self->tokens);
    Py_CLEAR(self->dict);
    return 0;
}

static void
cached_dealloc(Cached *self)
{
    PyObject_GC_UnTrack(self);
    if (self->weak != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    cached_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
cached_get(PyObject *self, PyObject *instance, PyObject *owner)
{
    return instance == NULL || instance == Py_None ? Py_NewRef(self) : PyMethod_New(self, instance);
}

static PyObject *
cached_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyObject_GetAttrString(self, "__qualname__");
}

static PyObject *
cached_copy(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return Py_NewRef(self);
}

static PyObject *
cached_key(Cached *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *token = NULL;
    if (self->method && count > 0 && (token = token_of(self, args[0])) == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    PyObject *key = key_of(self, args, count, names, token);
    Py_XDECREF(token);
    return key;
}

static PyMethodDef cached_methods[] = {
    {"__reduce__", cached_reduce, METH_NOARGS, NULL},
    {"__copy__", cached_copy, METH_NOARGS, NULL},
    {"__deepcopy__", cached_copy, METH_O, NULL},
    {"key", (PyCFunction)(void (*)(void))cached_key, METH_FASTCALL | METH_KEYWORDS,
     "key(*args, **keywords): the key of a call; None for an instance that no token stands for yet."},
    {NULL},
};

static PyMemberDef cached_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(Cached, dict), READONLY, NULL},
    {"hits", T_LONGLONG, offsetof(Cached, hits), 0, NULL},
    {"entries", T_OBJECT, offsetof(Cached, entries), READONLY, NULL},
    {"tokens", T_OBJECT, offsetof(Cached, tokens), READONLY, NULL},
    {"typed", T_BOOL, offsetof(Cached, typed), READONLY, NULL},
    {"method", T_BOOL, offsetof(Cached, method), 0, NULL},
    {NULL},
};

static PyGetSetDef cached_getset[] = {{"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL}, {NULL}};

static PyTypeObject CachedType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "otel_perf.memory._lookup.Cached",
    .tp_basicsize = sizeof(Cached),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .tp_new = cached_new,
    .tp_dealloc = (destructor)cached_dealloc,
    .tp_traverse = (traverseproc)cached_traverse,
    .tp_clear = (inquiry)cached_clear,
    .tp_call = PyVectorcall_Call,
    .tp_vectorcall_offset = offsetof(Cached, call),
    .tp_dictoffset = offsetof(Cached, dict),
    .tp_weaklistoffset = offsetof(Cached, weak),
    .tp_descr_get = cached_get,
    .tp_methods = cached_methods,
    .tp_members = cached_members,
    .tp_getset = cached_getset,
};

/* --- the module ----------------------------------------------------------------------------------- */

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_lookup", NULL, -1, NULL};

PyMODINIT_FUNC
PyInit__lookup(void)
{
    if (PyType_Ready(&EntryType) < 0 || PyType_Ready(&CachedType) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    keywords_mark = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
    if (keywords_mark == NULL || PyModule_AddObjectRef(module, "KEYWORDS", keywords_mark) < 0
        || PyModule_AddObjectRef(module, "Entry", (PyObject *)&EntryType) < 0
        || PyModule_AddObjectRef(module, "Cached", (PyObject *)&CachedType) < 0)
        Py_CLEAR(module);
    return module;
}
