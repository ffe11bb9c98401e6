/* The compiled twin of recorder.py: what nearly every span costs, between the SDK and the exporters.
 *
 * A span's start is an entry in a dictionary, its end is the entry's removal, a duration counted for local roots and
 * calls, and a tuple in its root's list. Everything else (what is slow, new or one too many) is decided in Python. Keys
 * are whole numbers and strings, so that no Python code runs while a dictionary changes; the GIL makes each count exact.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <structmember.h>
#include <time.h>

/* Names of attributes and methods, and attributes of spans by which calls of one name are told apart. */
#define NAMES(X) \
    X(_attributes) X(_context) X(_dict) X(_end_time) X(_kind) X(_name) X(_parent) X(_start_time) X(on_end) X(recent) \
    X(running) X(task) X(gevent) X(eventlet) X(_started) X(_ended_root) X(_called) X(_located) X(_looked_up) X(_entered) X(_held) X(_failed) \
    X(count)
#define DECLARE(name) static PyObject *str_##name;
NAMES(DECLARE)

static PyObject *texts[4];  /* conventions.raw's, in its order */
static PyObject *loops;     /* the globals of loops.py, in which `running` and `task` change once */
static PyObject *client;    /* SpanKind.CLIENT */
static PyObject *recent_clocks;
static PyObject *zero;

/* Set by `configure`, from the constants of the Python modules. */
static Py_ssize_t most_open, most_spans, longest_key, window;
static long long hold, site_after, site_long, oldest;

/* --- a local root --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *trace_id, *span_id, *kind, *thread, *loop, *ended;
    PyObject *clocks, *held, *works, *samples, *sites, *seen; /* NULL, which Python sees as None, for most roots */
    long long start;
    Py_ssize_t kept; /* of its spans, as counted by the recorder */
    char open, done;
} Root;

static PyTypeObject RootType;

static int
root_init(Root *self, PyObject *args, PyObject *keywords)
{
    PyObject *trace_id, *span_id, *kind, *thread, *loop;
    long long start;
    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Root takes no keywords");
        return -1;
    }
    if (!PyArg_ParseTuple(args, "OOOLOO:Root", &trace_id, &span_id, &kind, &start, &thread, &loop))
        return -1;
    PyObject *ended = PyList_New(0);
    if (ended == NULL)
        return -1;
    Py_XSETREF(self->trace_id, Py_NewRef(trace_id));
    Py_XSETREF(self->span_id, Py_NewRef(span_id));
    Py_XSETREF(self->kind, Py_NewRef(kind));
    Py_XSETREF(self->thread, Py_NewRef(thread));
    Py_XSETREF(self->loop, Py_NewRef(loop));
    Py_XSETREF(self->ended, ended);
    self->start = start;
    self->open = 1;
    return 0;
}

static int
root_traverse(Root *self, visitproc visit, void *arg)
{
    Py_VISIT(self->kind);
    Py_VISIT(self->loop);
    Py_VISIT(self->ended);
    Py_VISIT(self->held);
    Py_VISIT(self->works);
    Py_VISIT(self->samples);
    Py_VISIT(self->sites);
    Py_VISIT(self->seen);
    return 0;
}

static int
root_clear(Root *self)
{
    Py_CLEAR(self->trace_id);
    Py_CLEAR(self->span_id);
    Py_CLEAR(self->kind);
    Py_CLEAR(self->thread);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->ended);
    Py_CLEAR(self->clocks);
    Py_CLEAR(self->held);
    Py_CLEAR(self->works);
    Py_CLEAR(self->samples);
    Py_CLEAR(self->sites);
    Py_CLEAR(self->seen);
    return 0;
}

static void
root_dealloc(Root *self)
{
    PyObject_GC_UnTrack(self);
    root_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* The queue of what is held back, made by the first who asks: two threads may do so together. */
static PyObject *
root_holding(Root *self, PyObject *make)
{
    if (self->held == NULL || self->held == Py_None) {
        PyObject *made = PyObject_CallNoArgs(make);
        if (made == NULL)
            return NULL;
        if (self->held == NULL || self->held == Py_None) /* still */
            Py_XSETREF(self->held, Py_NewRef(made));
        Py_DECREF(made);
    }
    return Py_NewRef(self->held);
}

static PyMethodDef root_methods[] = {
    {"holding", (PyCFunction)root_holding, METH_O, "holding(make): what is held back; made, if there is none yet."},
    {NULL},
};

static PyMemberDef root_members[] = {
    {"trace_id", T_OBJECT, offsetof(Root, trace_id), 0, NULL},
    {"span_id", T_OBJECT, offsetof(Root, span_id), 0, NULL},
    {"kind", T_OBJECT, offsetof(Root, kind), 0, NULL},
    {"thread", T_OBJECT, offsetof(Root, thread), 0, NULL},
    {"loop", T_OBJECT, offsetof(Root, loop), 0, NULL},
    {"ended", T_OBJECT, offsetof(Root, ended), 0, NULL},
    {"clocks", T_OBJECT, offsetof(Root, clocks), 0, NULL},
    {"held", T_OBJECT, offsetof(Root, held), 0, NULL},
    {"works", T_OBJECT, offsetof(Root, works), 0, NULL},
    {"samples", T_OBJECT, offsetof(Root, samples), 0, NULL},
    {"sites", T_OBJECT, offsetof(Root, sites), 0, NULL},
    {"seen", T_OBJECT, offsetof(Root, seen), 0, NULL},
    {"start", T_LONGLONG, offsetof(Root, start), 0, NULL},
    {"open", T_BOOL, offsetof(Root, open), 0, NULL},
    {"done", T_BOOL, offsetof(Root, done), 0, NULL},
    {NULL},
};

static PyTypeObject RootType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "otel_perf.bottlenecks._recorder.RootBase",
    .tp_basicsize = sizeof(Root),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)root_init,
    .tp_dealloc = (destructor)root_dealloc,
    .tp_traverse = (traverseproc)root_traverse,
    .tp_clear = (inquiry)root_clear,
    .tp_methods = root_methods,
    .tp_members = root_members,
};

/* --- the recorder --------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *opened, *roots, *sinks, *starting; /* dictionaries and tuples */
    PyObject *operations, *clients;              /* what is known of durations: by name, by name and words */
    PyObject *make_root, *begun;
    double share;
    long long noted;
    Py_ssize_t kept, most_kept;
    char on;
} Recorder;

/* Hand an exception of ours on to the guard; -1 if the app has to see it. */
static int
failed(Recorder *self)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception))
        return -1;
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    PyObject *done = PyObject_CallMethodOneArg((PyObject *)self, str__failed, error);
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Whether another span of `root` may be kept; it is counted then. */
static int
may_keep(Recorder *self, Root *root)
{
    if (self->kept >= self->most_kept)
        return 0;
    if (!root->done) { /* else nobody would take it back */
        self->kept++;
        root->kept++;
    }
    return 1;
}

/* The context of a span: a tuple, whose items are read by place. */
static PyObject *
context_of(PyObject *span)
{
    PyObject *context = PyObject_GetAttr(span, str__context);
    if (context != NULL && (!PyTuple_Check(context) || PyTuple_GET_SIZE(context) < 2)) {
        PyErr_Format(PyExc_TypeError, "the context of a span is a %s", Py_TYPE(context)->tp_name);
        Py_CLEAR(context);
    }
    return context;
}

/* The event loop that runs here and its task, both None without one; 0, or -1 with an exception. */
static int
where(PyObject **loop, PyObject **task)
{
    PyObject *running = Py_XNewRef(PyDict_GetItemWithError(loops, str_running));
    *loop = running == NULL ? NULL : PyObject_CallNoArgs(running);
    Py_XDECREF(running);
    if (*loop == NULL || *loop == Py_None) {
        *task = Py_XNewRef(*loop);
        return *loop == NULL ? -1 : 0;
    }
    PyObject *current = Py_XNewRef(PyDict_GetItemWithError(loops, str_task));
    *task = current == NULL ? NULL : PyObject_CallOneArg(current, *loop);
    Py_XDECREF(current);
    return *task == NULL ? -1 : 0;
}

#define FARTHEST 4000000000000000000LL /* ns: the difference of two times fits, too */

/* A time of a span in ns, also where the app gave it as a float; check for an exception. */
static long long
time_of(PyObject *span, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(span, name);
    if (found == NULL)
        return -1;
    int beyond = 0;
    long long time;
    if (PyFloat_Check(found)) {
        double given = PyFloat_AS_DOUBLE(found);
        beyond = given < -FARTHEST ? -1 : given < FARTHEST ? 0 : 1;
        time = beyond ? 0 : (long long)given;
    } else
        time = PyLong_AsLongLongAndOverflow(found, &beyond);
    Py_DECREF(found);
    if (beyond || time > FARTHEST || time < -FARTHEST)
        time = beyond < 0 || (!beyond && time < 0) ? -FARTHEST : FARTHEST;
    return time;
}

static int
open_span(Recorder *self, PyObject *span_id, Root *root, PyObject *span, PyObject *thread, PyObject *task)
{
    PyObject *entry = PyTuple_Pack(4, root, span, thread, task);
    int result = entry == NULL ? -1 : PyDict_SetItem(self->opened, span_id, entry);
    Py_XDECREF(entry);
    return result;
}

/* Record a local root: 1 if it was, 0 if Python has to decide, -1 with an exception. */
static int
begin(Recorder *self, PyObject *span, PyObject *context)
{
    PyObject *loop = NULL, *task = NULL, *kind = NULL, *thread = NULL, *id = NULL, *done = NULL;
    Root *root = NULL;
    int result = -1;
    if (self->share < 1.0)
        return 0;
    /* Greenlets share one thread, which then says nothing of either. */
    PyObject *modules = PyImport_GetModuleDict();
    int greenlets = PyDict_Contains(modules, str_gevent) > 0 || PyDict_Contains(modules, str_eventlet) > 0;
    long long start = time_of(span, str__start_time);
    if ((start == -1 && PyErr_Occurred()) || where(&loop, &task) < 0 || (kind = PyObject_GetAttr(span, str__kind)) == NULL
        || (thread = PyLong_FromUnsignedLong(PyThread_get_thread_ident())) == NULL)
        goto done;
    PyTypeObject *type = (PyTypeObject *)self->make_root;
    root = (Root *)type->tp_alloc(type, 0);
    if (root == NULL || (root->ended = PyList_New(0)) == NULL)
        goto done;
    root->trace_id = Py_NewRef(PyTuple_GET_ITEM(context, 0));
    root->span_id = Py_NewRef(PyTuple_GET_ITEM(context, 1));
    root->kind = Py_NewRef(kind);
    root->thread = Py_NewRef(thread);
    root->loop = Py_NewRef(loop);
    root->start = start;
    root->open = 1;
    if (loop == Py_None && !greenlets) {
        struct timespec at;
        clock_gettime(CLOCK_REALTIME, &at);
        long long now = (long long)at.tv_sec * 1000000000 + at.tv_nsec;
        if (now - start < oldest) {
            PyObject *time = PyLong_FromLongLong(now);
            if (time == NULL)
                goto done;
            root->clocks = PyObject_CallOneArg(recent_clocks, time);
            Py_DECREF(time);
            if (root->clocks == NULL)
                goto done;
        }
    }
    id = PyLong_FromVoidPtr(root);
    if (id == NULL || PyDict_SetItem(self->roots, id, (PyObject *)root) < 0
        || open_span(self, root->span_id, root, span, thread, task) < 0)
        goto done;
    if (self->begun != Py_None && !greenlets) {
        PyObject *begun = Py_NewRef(self->begun);
        done = PyObject_CallOneArg(begun, (PyObject *)root);
        Py_DECREF(begun);
        if (done == NULL)
            goto done;
    }
    result = 1;
done:
    Py_XDECREF(loop);
    Py_XDECREF(task);
    Py_XDECREF(kind);
    Py_XDECREF(thread);
    Py_XDECREF(id);
    Py_XDECREF(done);
    Py_XDECREF(root);
    return result;
}

/* The same for a child of `root`. */
static int
adopt(Recorder *self, PyObject *span, PyObject *context, Root *root)
{
    PyObject *loop = NULL, *task = NULL, *kind = NULL, *thread = NULL, *done = NULL;
    int result = -1;
    if (where(&loop, &task) < 0 || (thread = PyLong_FromUnsignedLong(PyThread_get_thread_ident())) == NULL)
        goto done;
    if (loop != Py_None && root->loop == Py_None) {
        done = PyObject_CallMethodObjArgs((PyObject *)self, str__entered, root, loop, NULL);
        if (done == NULL)
            goto done;
        Py_CLEAR(done);
    }
    if (open_span(self, PyTuple_GET_ITEM(context, 1), root, span, thread, task) < 0
        || (kind = PyObject_GetAttr(span, str__kind)) == NULL)
        goto done;
    if (kind == client) {
        long long since = time_of(span, str__start_time) - root->start;
        if (PyErr_Occurred())
            goto done;
        if (since >= site_after) {
            done = PyObject_CallMethodObjArgs((PyObject *)self, str__looked_up, root, span, NULL);
            if (done == NULL)
                goto done;
        }
    }
    result = 1;
done:
    Py_XDECREF(loop);
    Py_XDECREF(task);
    Py_XDECREF(kind);
    Py_XDECREF(thread);
    Py_XDECREF(done);
    return result;
}

static int
start_span(Recorder *self, PyObject *span)
{
    int result = -1;
    if (PyDict_GET_SIZE(self->opened) >= most_open)
        return 0;
    PyObject *parent = PyObject_GetAttr(span, str__parent);
    if (parent == NULL)
        return -1;
    PyObject *context = context_of(span), *above = NULL;
    if (context == NULL)
        goto done;
    if (PyTuple_Check(parent) && PyTuple_GET_SIZE(parent) > 2 && PyTuple_GET_ITEM(parent, 2) == Py_False) {
        above = Py_XNewRef(PyDict_GetItemWithError(self->opened, PyTuple_GET_ITEM(parent, 1)));
        if (above == NULL && PyErr_Occurred())
            goto done;
    }
    Root *root = above == NULL ? NULL : (Root *)PyTuple_GET_ITEM(above, 0);
    int same = root == NULL ? 0 : PyObject_RichCompareBool(root->trace_id, PyTuple_GET_ITEM(context, 0), Py_EQ);
    if (same >= 0)
        result = same ? adopt(self, span, context, root) : begin(self, span, context);
done:
    Py_XDECREF(context);
    Py_DECREF(parent);
    Py_XDECREF(above);
    return result;
}

static PyObject *
recorder_on_start(Recorder *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count < 1 || count + named > 2) {
        PyErr_SetString(PyExc_TypeError, "on_start() takes a span and a parent context");
        return NULL;
    }
    if (PyTuple_GET_SIZE(self->starting) == 0) {
        if (!self->on)
            Py_RETURN_NONE;
        int recorded = start_span(self, args[0]);
        if (recorded > 0)
            Py_RETURN_NONE;
        if (recorded < 0) {
            if (failed(self) < 0)
                return NULL;
            Py_RETURN_NONE;
        }
    }
    return PyObject_CallMethodObjArgs((PyObject *)self, str__started, args[0], count + named > 1 ? args[1] : Py_None, NULL);
}

/* What tells calls of one name apart; NULL without an exception where that takes more than looking. */
static PyObject *
raw(PyObject *span)
{
    PyObject *attributes = PyObject_GetAttr(span, str__attributes), *kept = NULL, *text = NULL;
    if (attributes == NULL)
        return NULL;
    if (attributes == Py_None) {
        text = PyUnicode_New(0, 0);
        goto done;
    }
    kept = PyObject_GetAttr(attributes, str__dict);
    if (kept == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError))
            PyErr_Clear();
        goto done;
    }
    if (!PyDict_CheckExact(kept))
        goto done;
    for (int i = 0; i < 4 && text == NULL; i++) {
        PyObject *found = PyDict_GetItemWithError(kept, texts[i]);
        if (found == NULL) {
            if (PyErr_Occurred())
                goto done;
            continue;
        }
        if (!PyUnicode_CheckExact(found))
            goto done;
        if (PyUnicode_GET_LENGTH(found) > longest_key)
            text = PyUnicode_Substring(found, 0, longest_key);
        else if (PyUnicode_GET_LENGTH(found) > 0)
            text = Py_NewRef(found);
    }
    if (text == NULL && !PyErr_Occurred())
        text = PyUnicode_New(0, 0);
done:
    Py_DECREF(attributes);
    Py_XDECREF(kept);
    return text;
}

/* Add to the durations that are known under `key`: 1 if that was all, 0 if Python has to, -1 with an exception. */
static int
add_duration(PyObject *known_of, PyObject *key, PyObject *duration)
{
    PyObject *known = PyDict_GetItemWithError(known_of, key);
    if (known == NULL)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *recent = PyObject_GetAttr(known, str_recent);
    if (recent == NULL)
        return -1;
    int result = 0;
    if (PyList_GET_SIZE(recent) + 1 < window)
        result = PyList_Append(recent, duration) < 0 ? -1 : 1;
    Py_DECREF(recent);
    return result;
}

/* Count the duration of a call. */
static int
count_call(Recorder *self, PyObject *span, PyObject *duration)
{
    int added = 0;
    PyObject *text = raw(span);
    if (text == NULL && PyErr_Occurred())
        return -1;
    if (text != NULL) {
        PyObject *name = PyObject_GetAttr(span, str__name), *key = NULL;
        if (name == NULL || (key = PyTuple_Pack(2, name, text)) == NULL)
            added = -1;
        else if (PyUnicode_CheckExact(name))
            added = add_duration(self->clients, key, duration);
        Py_XDECREF(name);
        Py_XDECREF(key);
        Py_DECREF(text);
    }
    if (added == 0) {
        PyObject *done = PyObject_CallMethodObjArgs((PyObject *)self, str__called, span, duration, NULL);
        added = done == NULL ? -1 : 1;
        Py_XDECREF(done);
    }
    return added < 0 ? -1 : 0;
}

static void
make_room(Recorder *self, Root *root)
{
    self->kept = Py_MAX(0, self->kept - root->kept); /* in a forked child nothing is counted of a root of the parent's */
    root->kept = 0;
}

#define IS_NONE(object) ((object) == NULL || (object) == Py_None)

/* The end of a local root that is short, of which nothing is held and nothing else is known: 1 if that was all. */
static int
end_short(Recorder *self, Root *root, PyObject *span, PyObject *duration, long long took)
{
    if (took >= hold || self->noted > root->start || !IS_NONE(root->held) || !IS_NONE(root->works)
        || !IS_NONE(root->samples) || !IS_NONE(root->sites) || !IS_NONE(root->seen))
        return 0;
    PyObject *id = PyLong_FromVoidPtr(root);
    if (id == NULL)
        return -1;
    int result = PyDict_Contains(self->roots, id);
    if (result > 0) { /* else it was forgotten meanwhile */
        PyObject *name = PyObject_GetAttr(span, str__name);
        result = name == NULL ? -1 : PyUnicode_CheckExact(name) ? add_duration(self->operations, name, duration) : 0;
        Py_XDECREF(name);
    }
    if (result > 0 && (result = PyDict_DelItem(self->roots, id) < 0 ? -1 : 1) > 0) {
        root->open = 0;
        root->done = 1;
        make_room(self, root);
        PyObject *none = PyList_New(0); /* which may run the collector, and others meanwhile */
        if (none == NULL)
            result = -1;
        else
            Py_XSETREF(root->ended, none);
    }
    Py_DECREF(id);
    return result;
}

/* 1 if the span is held back, 0 if it has to be handed on, -1 with an exception. */
static int
end_known(Recorder *self, PyObject *span, PyObject *span_id, PyObject *known)
{
    PyObject *duration = NULL, *kind = NULL, *task = NULL, *kept = NULL, *done = NULL;
    Root *root = (Root *)PyTuple_GET_ITEM(known, 0);
    PyObject *thread = PyTuple_GET_ITEM(known, 2);
    int result = -1;
    long long since = time_of(span, str__start_time);
    if (since == -1 && PyErr_Occurred())
        goto done;
    long long took = time_of(span, str__end_time) - since;
    if (PyErr_Occurred())
        goto done;
    duration = PyLong_FromLongLong(took);
    task = PyTuple_GET_ITEM(known, 3) == Py_None ? Py_NewRef(zero) : PyLong_FromVoidPtr(PyTuple_GET_ITEM(known, 3));
    if (duration == NULL || task == NULL)
        goto done;
    int same = PyObject_RichCompareBool(root->span_id, span_id, Py_EQ);
    if (same < 0)
        goto done;
    if (same) {
        result = end_short(self, root, span, duration, took);
        if (result != 0) {
            result = result < 0 ? -1 : 0;
            goto done;
        }
        done = PyObject_CallMethodObjArgs((PyObject *)self, str__ended_root, root, span, duration, task, NULL);
        result = done == NULL ? -1 : PyObject_IsTrue(done);
        goto done;
    }
    kind = PyObject_GetAttr(span, str__kind);
    if (kind == NULL)
        goto done;
    if (kind == client) {
        if (count_call(self, span, duration) < 0)
            goto done;
        if (took >= site_long) {
            done = PyObject_CallMethodObjArgs((PyObject *)self, str__located, root, span_id, thread, NULL);
            if (done == NULL)
                goto done;
            Py_CLEAR(done);
        }
    }
    result = 0;
    if (!root->open) /* it outlived its root */
        goto done;
    result = -1;
    if (PyList_GET_SIZE(root->ended) < most_spans && may_keep(self, root)) {
        kept = PyTuple_Pack(3, span, thread, task);
        if (kept == NULL || PyList_Append(root->ended, kept) < 0)
            goto done;
        if (took < hold && self->noted <= since) {
            result = 0;
            goto done;
        }
        done = PyObject_CallMethodObjArgs((PyObject *)self, str__held, root, span, NULL);
        result = done == NULL ? -1 : 1;
        goto done;
    }
    done = PyObject_CallMethodOneArg((PyObject *)root, str_count, span);
    result = done == NULL ? -1 : 0;
done:
    Py_XDECREF(duration);
    Py_XDECREF(kind);
    Py_XDECREF(task);
    Py_XDECREF(kept);
    Py_XDECREF(done);
    return result;
}

static int
end_span(Recorder *self, PyObject *span)
{
    PyObject *context = context_of(span);
    if (context == NULL)
        return -1;
    PyObject *span_id = PyTuple_GET_ITEM(context, 1);
    PyObject *known = Py_XNewRef(PyDict_GetItemWithError(self->opened, span_id));
    int held = known == NULL && PyErr_Occurred() ? -1 : 0;
    if (known != NULL) {
        held = PyDict_DelItem(self->opened, span_id) < 0 ? -1 : end_known(self, span, span_id, known);
        Py_DECREF(known);
    }
    Py_DECREF(context);
    return held;
}

static PyObject *
recorder_on_end(Recorder *self, PyObject *span)
{
    int held = end_span(self, span);
    if (held > 0)
        Py_RETURN_NONE;
    if (held < 0 && failed(self) < 0)
        return NULL;
    PyObject *sinks = Py_NewRef(self->sinks);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(sinks); i++) {
        PyObject *done = PyObject_CallMethodOneArg(PyTuple_GET_ITEM(sinks, i), str_on_end, span);
        if (done == NULL) {
            Py_DECREF(sinks);
            return NULL;
        }
        Py_DECREF(done);
    }
    Py_DECREF(sinks);
    Py_RETURN_NONE;
}

static PyObject *
recorder_make_room(Recorder *self, PyObject *root)
{
    if (!PyObject_TypeCheck(root, &RootType)) {
        PyErr_Format(PyExc_TypeError, "make_room() takes a root, not a %s", Py_TYPE(root)->tp_name);
        return NULL;
    }
    make_room(self, (Root *)root);
    Py_RETURN_NONE;
}

static int
recorder_init(Recorder *self, PyObject *args, PyObject *keywords)
{
    PyObject *make, *operations, *clients;
    Py_ssize_t most_kept;
    if ((keywords != NULL && PyDict_GET_SIZE(keywords) > 0)
        || !PyArg_ParseTuple(args, "O!O!O!n:Recorder", &PyType_Type, &make, &PyDict_Type, &operations, &PyDict_Type,
                             &clients, &most_kept))
        return -1;
    if (!PyType_IsSubtype((PyTypeObject *)make, &RootType)) {
        PyErr_Format(PyExc_TypeError, "Recorder() takes a class of roots, not %s", ((PyTypeObject *)make)->tp_name);
        return -1;
    }
    PyObject *opened = PyDict_New(), *roots = PyDict_New(), *none = PyTuple_New(0);
    if (opened == NULL || roots == NULL || none == NULL) {
        Py_XDECREF(opened);
        Py_XDECREF(roots);
        Py_XDECREF(none);
        return -1;
    }
    Py_XSETREF(self->opened, opened);
    Py_XSETREF(self->roots, roots);
    Py_XSETREF(self->sinks, Py_NewRef(none));
    Py_XSETREF(self->starting, none);
    Py_XSETREF(self->make_root, Py_NewRef(make));
    Py_XSETREF(self->operations, Py_NewRef(operations));
    Py_XSETREF(self->clients, Py_NewRef(clients));
    Py_XSETREF(self->begun, Py_NewRef(Py_None));
    self->most_kept = most_kept;
    self->share = 1.0;
    return 0;
}

static int
recorder_traverse(Recorder *self, visitproc visit, void *arg)
{
    Py_VISIT(self->opened);
    Py_VISIT(self->roots);
    Py_VISIT(self->sinks);
    Py_VISIT(self->starting);
    Py_VISIT(self->operations);
    Py_VISIT(self->clients);
    Py_VISIT(self->make_root);
    Py_VISIT(self->begun);
    return 0;
}

static int
recorder_clear(Recorder *self)
{
    Py_CLEAR(self->opened);
    Py_CLEAR(self->roots);
    Py_CLEAR(self->sinks);
    Py_CLEAR(self->starting);
    Py_CLEAR(self->operations);
    Py_CLEAR(self->clients);
    Py_CLEAR(self->make_root);
    Py_CLEAR(self->begun);
    return 0;
}

static void
recorder_dealloc(Recorder *self)
{
    PyObject_GC_UnTrack(self);
    recorder_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* A dictionary or tuple that is set from Python has to be one: it is used without another look. */
static int
set_member(PyObject **member, PyObject *value, PyTypeObject *type, const char *name)
{
    if (value == NULL || !PyObject_TypeCheck(value, type)) {
        PyErr_Format(PyExc_TypeError, "%s has to be a %s", name, type->tp_name);
        return -1;
    }
    Py_XSETREF(*member, Py_NewRef(value));
    return 0;
}

#define MEMBER(name, field, type) \
    static PyObject *get_##field(Recorder *self, void *closure) { return Py_NewRef(self->field); } \
    static int set_##field(Recorder *self, PyObject *value, void *closure) \
    { \
        return set_member(&self->field, value, &type, name); \
    }
MEMBER("open", opened, PyDict_Type)
MEMBER("roots", roots, PyDict_Type)
MEMBER("_sinks", sinks, PyTuple_Type)
MEMBER("_starting", starting, PyTuple_Type)
MEMBER("begun", begun, PyBaseObject_Type)

static PyGetSetDef recorder_getset[] = {
    {"open", (getter)get_opened, (setter)set_opened, NULL, NULL},
    {"roots", (getter)get_roots, (setter)set_roots, NULL, NULL},
    {"begun", (getter)get_begun, (setter)set_begun, NULL, NULL},
    {"_sinks", (getter)get_sinks, (setter)set_sinks, NULL, NULL},
    {"_starting", (getter)get_starting, (setter)set_starting, NULL, NULL},
    {NULL},
};

static PyMemberDef recorder_members[] = {
    {"on", T_BOOL, offsetof(Recorder, on), 0, NULL},
    {"share", T_DOUBLE, offsetof(Recorder, share), 0, NULL},
    {"noted", T_LONGLONG, offsetof(Recorder, noted), 0, NULL},
    {"kept", T_PYSSIZET, offsetof(Recorder, kept), 0, NULL},
    {"most_kept", T_PYSSIZET, offsetof(Recorder, most_kept), 0, NULL},
    {NULL},
};

static PyMethodDef recorder_methods[] = {
    {"on_start", (PyCFunction)(void (*)(void))recorder_on_start, METH_FASTCALL | METH_KEYWORDS,
     "on_start(span, parent_context=None): record that it is open."},
    {"on_end", (PyCFunction)recorder_on_end, METH_O, "on_end(span): hand it on, or hold it back."},
    {"make_room", (PyCFunction)recorder_make_room, METH_O, "make_room(root): its spans are not kept any more."},
    {NULL},
};

static PyTypeObject RecorderType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "otel_perf.bottlenecks._recorder.Recorder",
    .tp_basicsize = sizeof(Recorder),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)recorder_init,
    .tp_dealloc = (destructor)recorder_dealloc,
    .tp_traverse = (traverseproc)recorder_traverse,
    .tp_clear = (inquiry)recorder_clear,
    .tp_getset = recorder_getset,
    .tp_members = recorder_members,
    .tp_methods = recorder_methods,
};

/* --- the module ----------------------------------------------------------------------------------- */

static PyObject *
configure(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loops", "client", "texts", "most_open", "most_spans", "longest_key", "window", "hold",
                            "site_after", "site_long", "oldest", "recent_clocks", NULL};
    PyObject *found_loops, *found_client, *found_texts[4], *found_clocks;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "$O!O(UUUU)nnnnLLLLO:configure", names, &PyDict_Type, &found_loops,
                                     &found_client, &found_texts[0], &found_texts[1], &found_texts[2], &found_texts[3],
                                     &most_open, &most_spans, &longest_key, &window, &hold, &site_after, &site_long,
                                     &oldest, &found_clocks))
        return NULL;
    Py_XSETREF(loops, Py_NewRef(found_loops));
    Py_XSETREF(client, Py_NewRef(found_client));
    Py_XSETREF(recent_clocks, Py_NewRef(found_clocks));
    for (int i = 0; i < 4; i++)
        Py_XSETREF(texts[i], Py_NewRef(found_texts[i]));
    Py_RETURN_NONE;
}

/* learnt(buckets, window, decay, least, longest, step): baseline.Durations' own, a logarithm for each of a window. */
static PyObject *
learnt(PyObject *module, PyObject *args)
{
    PyObject *buckets, *durations, *key, *value;
    double decay, least, longest, step;
    Py_ssize_t place = 0;
    if (!PyArg_ParseTuple(args, "O!O!dddd:learnt", &PyDict_Type, &buckets, &PyList_Type, &durations, &decay, &least,
                          &longest, &step))
        return NULL;
    PyObject *result = PyDict_New();
    if (result == NULL)
        return NULL;
    while (PyDict_Next(buckets, &place, &key, &value)) {
        double weight = PyFloat_AsDouble(value) * decay;
        PyObject *kept = weight >= least ? PyFloat_FromDouble(weight) : NULL;
        if (kept != NULL)
            PyDict_SetItem(result, key, kept);
        Py_XDECREF(kept);
        if (PyErr_Occurred())
            goto failed;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(durations); i++) {
        double duration = PyFloat_AsDouble(PyList_GET_ITEM(durations, i));
        if (duration == -1.0 && PyErr_Occurred())
            goto failed;
        long bucket = (long)(log(Py_MIN(Py_MAX(duration, 1.0), longest)) * step);
        PyObject *index = PyLong_FromLong(bucket);
        PyObject *known = index == NULL ? NULL : PyDict_GetItemWithError(result, index);
        PyObject *more = PyErr_Occurred() ? NULL : PyFloat_FromDouble(1.0 + (known == NULL ? 0.0 : PyFloat_AS_DOUBLE(known)));
        if (more != NULL)
            PyDict_SetItem(result, index, more);
        Py_XDECREF(index);
        Py_XDECREF(more);
        if (PyErr_Occurred())
            goto failed;
    }
    return result;
failed:
    Py_DECREF(result);
    return NULL;
}

static PyMethodDef functions[] = {
    {"learnt", (PyCFunction)learnt, METH_VARARGS, "learnt(buckets, window, decay, least, longest, step)"},
    {"configure", (PyCFunction)(void (*)(void))configure, METH_VARARGS | METH_KEYWORDS,
     "configure(*, ...): the constants of the Python modules, once, before the first recorder is made."},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_recorder", NULL, -1, functions};

PyMODINIT_FUNC
PyInit__recorder(void)
{
#define INTERN(name) \
    if ((str_##name = PyUnicode_InternFromString(#name)) == NULL) \
        return NULL;
    NAMES(INTERN)
    zero = PyLong_FromLong(0);
    if (zero == NULL || PyType_Ready(&RootType) < 0 || PyType_Ready(&RecorderType) < 0)
        return NULL;
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) { /* what is configured is the whole process's */
        PyErr_SetString(PyExc_ImportError, "otel_perf.bottlenecks._recorder is for the main interpreter");
        return NULL;
    }
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    if (PyModule_AddObjectRef(module, "RootBase", (PyObject *)&RootType) < 0
        || PyModule_AddObjectRef(module, "Recorder", (PyObject *)&RecorderType) < 0)
        Py_CLEAR(module);
    return module;
}
