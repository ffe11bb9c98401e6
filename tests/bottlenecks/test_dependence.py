"""A second call is called independent only when nothing can lead from the first to it."""

import ast
import gc
import inspect
import linecache
import sys
import textwrap
import threading

import pytest

from otel_perf.bottlenecks.dependence import Dependence, between

I, D, U = Dependence.INDEPENDENT, Dependence.DEPENDENT, Dependence.UNKNOWN  # noqa: E741

# The lines marked with #1 and #2 are the calls; #12 is a line that runs twice, or has both.
CASES = """
== I names
async def f(client):
    a = await client.get(u1) #1
    b = await client.get(u2) #2
    return a, b
== I sync
def f():
    a = requests.get(u1).json() #1
    b = requests.get(u2).json() #2
    return a, b
== I annotated
async def f(http_session: aiohttp.ClientSession, quotes: httpx.AsyncClient):
    a = await quotes.get(u1) #1
    b = await quotes.get(u2) #2
    return a, b
== D name
async def f(client):
    a = await client.get(u1) #1
    b = await client.get(a) #2
    return b
== D transitive
async def f(client):
    a = await client.get(u1) #1
    b = a.json()["id"]
    c = f"/x/{b}"
    d = await client.get(c) #2
    return d
== D unpack
async def f():
    a, *b = await get(u1) #1
    c = await get(b) #2
    return a, c
== I unpack pairs
async def f():
    a, x = await get(u1), 5 #1
    c = await get(x) #2
    return a, c
== D walrus
async def f():
    if (a := await get(u1)) is None: #1
        pass
    b = await get(a) #2
    return b
== D walrus in the second
async def f():
    a = await get(u1) #1
    return g(x := a.id, await get(x)) #2
== D augmented
async def f():
    total = 0
    total += await get(u1) #1
    b = await get(total) #2
    return b
== I augmented in a loop
async def f(ids):
    total = 0
    for i in ids:
        total += await price(i) #12
    return total
== D attribute
async def f(self):
    self.user = await get(u1) #1
    self.orders = await get(self.user.id) #2
== I other attribute
async def f(self):
    self.user = await self.client.get(u1) #1
    self.orders = await self.client.get(u2) #2
== U object that has the value
async def f(self):
    self.user = await get(u1) #1
    self.orders = await get_orders(self) #2
== U method of the object
async def f(self):
    self.user = await get(u1) #1
    self.orders = await self.load() #2
== D item
async def f():
    d = {}
    d["user"] = await get(u1) #1
    d["orders"] = await get(d["user"]) #2
    return d
== I other item
async def f(u2):
    d = {}
    d["user"] = await get(u1) #1
    d["orders"] = await get(u2) #2
    return d
== D whole dict
async def f():
    d = {}
    d["user"] = await get(u1) #1
    b = await get(d) #2
    return b
== U dynamic item
async def f(d, k, m):
    d[k] = await get(u1) #1
    b = await get(d[m]) #2
    return b
== D mutation
async def f():
    items = []
    items.append(await get(u1)) #1
    b = await get(items) #2
    return b
== I mutation of something else
async def f():
    items = []
    items.append(await get(u1)) #1
    b = await get(u2) #2
    return b, items
== U mutation of an alias
async def f(ctx):
    same = ctx.inner
    same.user = await get(u1) #1
    b = await get(ctx.inner.user) #2
    return b
== U alias made before through an object
async def f(ctx):
    svc = Service(ctx)
    ctx.user = await get(u1) #1
    b = await svc.load() #2
    return b
== I name used again
async def f():
    r = await get(u1) #1
    x = r.json()
    r = await get(u2) #2
    return x, r
== I killed
async def f():
    url = await get(u1) #1
    print(url)
    url = "http://x"
    b = await get(url) #2
    return b
== U killed on one way
async def f(flag):
    url = await get(u1) #1
    if flag:
        url = "http://x"
    b = await get(url) #2
    return b
== U del
async def f():
    a = await get(u1) #1
    check(a)
    del a
    b = await get(u2) #2
    return b
== I del
async def f():
    a = await get(u1) #1
    log.info("%s", a)
    del a
    b = await get(u2) #2
    return b
== D branch
async def f():
    a = await get(u1) #1
    if a.ok:
        return await get(u2) #2
== D else
async def f():
    a = await get(u1) #1
    if a.ok:
        return 1
    else:
        b = await get(u2) #2
    return b
== D early return
async def f():
    user = await get(u1) #1
    if not user:
        return None
    b = await get(u2) #2
    return b, user
== D early raise in an inner if
async def f(flag):
    user = await get(u1) #1
    if not user:
        if flag:
            raise ValueError
    b = await get(u2) #2
    return b, user
== I unrelated return
async def f(flag):
    user = await get(u1) #1
    if flag:
        return user
    b = await get(u2) #2
    return b, user
== U abort
async def f():
    user = await get(u1) #1
    if not user:
        abort(404)
    b = await get(u2) #2
    return b, user
== D assert
async def f():
    user = await get(u1) #1
    assert user
    b = await get(u2) #2
    return b
== U check
async def f(client):
    a = await client.get(u1) #1
    a.raise_for_status()
    b = await client.get(u2) #2
    return a, b
== D implicit flow
async def f():
    a = await get(u1) #1
    if a.ok:
        url = "x"
    else:
        url = "y"
    b = await get(url) #2
    return b
== D test is the first
async def f():
    if await get(u1): #1
        return await get(u2) #2
== D elif
async def f():
    if await get(u1): #1
        return 1
    elif await get(u2): #2
        return 2
== D match
async def f():
    a = await get(u1) #1
    match a:
        case {"id": i}:
            return await get(i) #2
== D while
async def f():
    a = await get(u1) #1
    while a.more:
        b = await get(u2) #2
        print(b)
== D for target
async def f():
    for i in await get(u1): #1
        b = await get(i) #2
        print(b)
== I loop over something else
async def f(ids):
    user = await get(u1) #1
    out = [user]
    for i in ids:
        out.append(await get(i)) #2
    return out
== I loop
async def f(client, ids):
    out = []
    for i in ids:
        out.append(await client.get(i)) #12
    return out
== I loop, derived
def f(ids):
    out = {}
    for i in ids:
        url = f"/x/{i}"
        r = requests.get(url) #12
        if r.status_code == 404:
            continue
        out[i] = r.json()
    return out
== I loop, two calls
async def f(ids):
    out = []
    for i in ids:
        a = await get_a(i) #1
        b = await get_b(i) #2
        out.append((a, b))
== I loop, the next round
async def f(ids):
    out = []
    for i in ids:
        a = await get_a(i) #2
        b = await get_b(i) #1
        out.append((a, b))
== D loop, break
async def f(ids):
    for i in ids:
        r = await get(i) #12
        if r.found:
            break
    return r
== I break, after the loop
async def f(ids):
    for i in ids:
        r = await get(i) #1
        if r.found:
            break
    b = await get(u2) #2
    return r, b
== D loop, return
async def f(ids):
    for i in ids:
        r = await get(i) #12
        if r.found:
            return r
== D pagination
async def f():
    cursor = None
    while True:
        page = await get(cursor) #12
        out.extend(page.items)
        cursor = page.next
        if not cursor:
            break
== D pagination in the test
async def f():
    url = "/first"
    while url:
        r = await get(url) #12
        url = r.next
== D while walrus
async def f():
    n = 0
    while page := await get(n): #12
        n += 1
        print(page)
== D pagination by for
async def f():
    token = None
    for n in range(10):
        r = await get(n, token) #12
        token = r.token
== D crawl
async def f(ids):
    for i in ids:
        r = await get(i) #12
        ids.extend(r.links)
== D crawl while
async def f(queue):
    while queue:
        i = queue.pop()
        r = await get(i) #12
        queue.extend(r.links)
== D loop, conditional carry and continue
async def f(ids):
    seen = None
    for i in ids:
        r = await get(i, seen) #12
        if r.bad:
            seen = r.id
            continue
        seen = r.other
== U polling
async def f():
    for _ in range(5):
        r = await get(u1) #12
        out.append(r)
== U while with an index
async def f(n):
    i = 0
    while i < n:
        r = await get(i) #12
        out.append(r)
        i += 1
== U async for
async def f(pages):
    async for i in pages:
        r = await get(i) #12
        out.append(r)
== U enrichment of shared objects
async def f(orders):
    for o in orders:
        r = await o.load() #12
        out.append(r)
== I enrichment
async def f(orders):
    for o in orders:
        o.customer = await get(o.customer_id) #12
== D retry
async def f():
    for attempt in range(3):
        try:
            return await get(attempt) #12
        except OSError:
            continue
== D retry falls through
async def f():
    for attempt in range(3):
        try:
            r = await get(attempt) #12
            break
        except OSError:
            pass
    return r
== D fallback in except
async def f():
    try:
        a = await get(u1) #1
    except OSError:
        a = await get(u2) #2
    return a
== D fallback after try
async def f():
    try:
        return await get(u1) #1
    except OSError:
        pass
    return await get(u2) #2
== U else
async def f():
    try:
        a = await get(u1) #1
    except OSError:
        a = None
    else:
        b = await get(u2) #2
    return a, b
== U finally
async def f():
    try:
        a = await get(u1) #1
    finally:
        b = await get(u2) #2
    return a, b
== U finally after return
async def f():
    try:
        return await get(u1) #1
    finally:
        b = await get(u2) #2
        print(b)
== I default in except
async def f():
    try:
        a = await get(u1) #1
    except OSError:
        a = None
    b = await get(u2) #2
    return a, b
== U return in except
async def f():
    try:
        a = await get(u1) #1
    except OSError:
        return None
    b = await get(u2) #2
    return a, b
== I both in try
async def f():
    try:
        a = await get(u1) #1
        b = await get(u2) #2
    except OSError:
        return None
    return a, b
== U different branches
async def f(x):
    if x:
        a = await get(u1) #1
    else:
        a = await get(u2) #2
    return a
== U discarded first
async def f(db):
    await db.execute("INSERT INTO t VALUES (1)") #1
    return await db.fetch("SELECT 1") #2
== U discarded first, function
async def f():
    await warm(u1) #1
    b = await get(u2) #2
    return b
== U discarded second
async def f():
    rows = await get(u1) #1
    await notify(u2) #2
    return rows
== D discarded second that uses it
async def f():
    rows = await get(u1) #1
    await notify(rows) #2
== U bound but unused
async def f():
    _ = await get(u1) #1
    b = await get(u2) #2
    return b
== U bound write
async def f():
    a = await create_order(u1) #1
    b = await get(u2) #2
    return a, b
== U writing sql
async def f():
    a = await fetchrow("INSERT INTO t VALUES (1) RETURNING id") #1
    b = await fetchrow("SELECT 1") #2
    return a, b
== U session
async def f(session):
    a = await session.scalars(q1) #1
    b = await session.scalars(q2) #2
    return a, b
== U object without a telling name
async def f(thing):
    a = await thing.ask(q1) #1
    b = await thing.ask(q2) #2
    return a, b
== U session as an argument
async def f(db):
    a = await crud.get_user(db, 1) #1
    b = await crud.get_items(db, 1) #2
    return a, b
== U session by keyword
async def f(db: AsyncSession):
    a = await get_user(1, using=db) #1
    b = await get_items(1, using=db) #2
    return a, b
== U session below two attributes
async def f(uow):
    a = await uow.users.get(1) #1
    b = await uow.orders.get(1) #2
    return a, b
== U repositories
async def f(user_repo, order_repo):
    a = await user_repo.get(1) #1
    b = await order_repo.get(1) #2
    return a, b
== U session in a closure
async def f(session):
    async def load(i):
        return await session.get(User, i)
    a = await load(1) #1
    b = await load(2) #2
    return a, b
== I client in a closure
async def f(client):
    async def load(i):
        return await client.get(i)
    a = await load(1) #1
    b = await load(2) #2
    return a, b
== U closure that remembers
async def f(client):
    token = None
    async def load(i):
        nonlocal token
        r = await client.get(i, token)
        token = r.token
        return r
    a = await load(1) #1
    b = await load(2) #2
    return a, b
== D closure that captures
async def f():
    def url():
        return f"/x/{user.id}"
    user = await get(u1) #1
    b = await get(url()) #2
    return b
== D lambda that captures
async def f():
    url = lambda: user.id
    user = await get(u1) #1
    b = await get(url()) #2
    return b
== U in one transaction
async def f():
    with transaction.atomic():
        a = get_user(1) #1
        b = get_order(2) #2
    return a, b
== U under a lock
async def f(lock):
    async with lock:
        a = await get(u1) #1
        b = await get(u2) #2
    return a, b
== I in a span
async def f():
    with tracer.start_as_current_span("x"):
        a = await get(u1) #1
        b = await get(u2) #2
    return a, b
== I client of a with
async def f():
    async with httpx.AsyncClient() as c:
        a = await c.get(u1) #1
        b = await c.get(u2) #2
    return a, b
== U session of a with
async def f():
    async with AsyncSession(engine) as s:
        a = await s.scalars(q1) #1
        b = await s.scalars(q2) #2
    return a, b
== U after a transaction
async def f(session, client):
    async with session.begin():
        a = await client.get(u1) #1
    b = await client.get(u2) #2
    return a, b
== D response of a with
async def f(http: aiohttp.ClientSession):
    async with http.get(u1) as r: #1
        a = await r.json() #2
    return a
== I two responses
async def f(http: aiohttp.ClientSession):
    async with http.get(u1) as r: #1
        a = await r.json()
    async with http.get(u2) as r: #2
        b = await r.json()
    return a, b
== U entered lock
async def f(lock):
    async with lock as l: #1
        a = await get(u1) #2
    return a, l
== U global
async def f():
    global user
    user = await get(u1) #1
    b = await load() #2
    return b
== U global registry
async def f():
    CACHE["u"] = await get(u1) #1
    b = await load() #2
    return b
== U yield between
async def f():
    a = await get(u1) #1
    yield a
    b = await get(u2) #2
    yield b
== U sleep between
async def f():
    a = await get(u1) #1
    await asyncio.sleep(1)
    b = await get(u2) #2
    return a, b
== D await between that uses it
async def f():
    a = await get(u1) #1
    x = await parse(a)
    b = await get(x) #2
    return b
== I one expression
async def f():
    return g(await get(u1), await get(u2)) #12
== I one expression, lines
async def f():
    return Response(
        user=await get_user(1), #1
        orders=await get_orders(1), #2
    )
== I second beside the value
async def f():
    a = await get_user(1) #1
    return Response(user=a, orders=await get_orders(1)) #2
== D nested
async def f():
    return await b(await a(u1)) #12
== D nested, lines
async def f():
    return await b(
        await a(u1) #1
    ) or (
        await c(u1) #2
    )
== D and
async def f():
    return await a(u1) and await b(u1) #12
== D conditional expression
async def f():
    return await a(u1) if await b(u1) else None #12
== D guarded by an expression
async def f():
    a = await get(u1) #1
    return a and await get(u2) #2
== D walrus between
async def f():
    return g(x := await a(u1), await b(x)) #12
== I comprehension
async def f(ids):
    return [await get(i) for i in ids] #12
== I shop
async def f(quotes: httpx.AsyncClient, items):
    async def ask(carrier):
        answer = (await quotes.get(carrier, params={"items": items})).raise_for_status()
        return answer.json()["price"], carrier
    answers = [await ask(carrier) for carrier in CARRIERS] #12
    return min(answers)
== I comprehension, sync
def f(ids):
    return {i: requests.get(i).status for i in ids} #12
== D comprehension carries
async def f(ids):
    cur = None
    return [cur := await get(i, cur) for i in ids] #12
== D comprehension appends
async def f(ids):
    out = [1]
    [out.append(await get(out[-1], i)) for i in ids] #12
    return out
== U comprehension polls
async def f():
    return [await get(u1) for _ in range(3)] #12
== D comprehension of the first
async def f():
    rows = await get(u1) #1
    return [await load(row) for row in rows] #2
== I comprehension hides a name
async def f(ids):
    r = await get(u1) #1
    return r, [await load(r) for r in ids] #2
== U generator expression
def f(ids):
    return any(check(i) for i in ids) #12
== U one call with two requests
async def f(sdk_client):
    return await sdk_client.fetch(1) #12
== U two statements of a line
async def f():
    a = await get(u1); b = await get(a) #12
    return b
== U tasks
async def f():
    t1 = asyncio.create_task(get(u1))
    t2 = asyncio.create_task(get(u2))
    a = await t1 #1
    b = await t2 #2
    return a, b
== U sync argument or call
def f():
    a = requests.get(u1) #1
    return render(a, requests.get(u2)) #2
== D star
async def f():
    a = await get(u1) #1
    return await get(*a, **a) #2
== D f-string
async def f():
    a = await get(u1) #1
    return await get(f"{a!r:>{10}}") #2
== U lines without calls
def f(order, user):
    a = order.customer #1
    b = user.address #2
    return a, b
== U object given to the first and read by the second
async def f(order):
    a = await load(order) #1
    b = await get(order.id) #2
    return a, b
== I plain argument of both
async def f(user_id):
    a = await get_user(user_id) #1
    b = await get_orders(user_id) #2
    return a, b
== U lock between
async def f(lock):
    a = await get(u1) #1
    await lock.acquire()
    b = await get(u2) #2
    return a, b
== U nested loops
async def f(groups):
    last = None
    for g in groups:
        for i in g:
            r = await get(i, last) #12
        last = r.id
== U memo
async def f(ids, cache):
    for i in ids:
        if i in cache:
            continue
        cache[i] = await get(i) #12
== D empty
async def f():
    rows = await get(u1) #1
    if not len(rows):
        return None
    b = await get(u2) #2
    return b
== D not in
async def f(u):
    allowed = await get(u1) #1
    if u not in allowed:
        raise PermissionError
    b = await get(u2) #2
    return b
== U context variable
async def f():
    token = current.set(await get(u1)) #1
    b = await load() #2
    current.reset(token)
    return b
== U context variable, later
async def f():
    a = await get(u1) #1
    token = current.set(a)
    b = await load() #2
    return b, token
== U context manager with the value
async def f():
    a = await get(u1) #1
    with user_context(a):
        b = await load() #2
    return b
== U setattr
async def f(self):
    setattr(self, "x", await get(u1)) #1
    b = await get(self.x) #2
    return b
== U vars
async def f(self):
    vars(self).update(x=await get(u1)) #1
    b = await get(self.x) #2
    return b
== D key of a store
async def f(d):
    a = await get(u1) #1
    d[a.id] = 1
    b = await get(d) #2
    return b
== D key of a del
async def f(d):
    a = await get(u1) #1
    del d[a.id]
    b = await get(d) #2
    return b
== U lambda with a session
async def f(session):
    a = await retry(lambda: session.scalars(q1)) #1
    b = await retry(lambda: session.scalars(q2)) #2
    return a, b
== U method handed to a thread
async def f(thing):
    a = await asyncio.to_thread(thing.ask, 1) #1
    b = await asyncio.to_thread(thing.ask, 2) #2
    return a, b
== I function handed to a thread
async def f():
    a = await asyncio.to_thread(requests.get, u1) #1
    b = await asyncio.to_thread(requests.get, u2) #2
    return a, b
== I continue in except
async def f(ids):
    out = []
    for i in ids:
        try:
            r = await get(i) #12
        except OSError:
            continue
        out.append(r)
    return out
== U break in except
async def f(ids):
    out = []
    for i in ids:
        try:
            r = await get(i) #12
        except OSError:
            break
        out.append(r)
    return out
== U sleep in a loop
def f(ids):
    out = []
    for i in ids:
        r = requests.get(i) #12
        out.append(r)
        time.sleep(1)
    return out
== U yield in a loop
async def f(ids):
    for i in ids:
        yield await get(i) #12
== U self methods
async def f(self):
    a = await self.fetch_user(1) #1
    b = await self.fetch_orders(1) #2
    return a, b
== U self given
async def f(self):
    a = await fetch_user(self) #1
    b = await fetch_orders(self) #2
    return a, b, self.x
== U remembered by a method
async def f(self):
    a = await self.client.get(u1) #1
    self.remember(a)
    b = await self.client.get(self.url) #2
    return b
== D through a method's argument
async def f(self):
    a = await self.client.get(u1) #1
    self.url = self.next(a)
    b = await self.client.get(self.url) #2
    return b
== D client that the first made
async def f():
    client = await connect() #1
    b = await client.get(u2) #2
    return b
== U suppressed first
async def f():
    with suppress(OSError):
        return await get(u1) #1
    return await get(u2) #2
== D chained comparison
async def f():
    return await a(u1) < x < await b(u2) #12
== U exit of a with
async def f(session, ids):
    for i in ids:
        async with session.begin(): #2
            r = await get(i) #1
            out.append(r)
== D match on the first
async def f():
    match await get(u1): #1
        case {"id": x}:
            return await load(x) #2
== I match on something else
async def f(kind):
    a = await get(u1) #1
    match kind:
        case 1:
            b = await load(1) #2
        case _:
            b = None
    return a, b
== U capture of a match
async def f():
    a = await get(u1) #1
    match a:
        case {"id": x, **rest}:
            pass
        case [*rest]:
            x = 1
    b = await load(x, rest) #2
    return b
== D starred display
async def f():
    a = await get(u1) #1
    ids = [*a, 3]
    b = await load(ids) #2
    return b
== D nested comprehension
async def f():
    a = await get(u1) #1
    ids = {x for row in a for x in row}
    b = await load(ids) #2
    return b
== I nested comprehension of calls
async def f(groups):
    return [[await get(i) for i in g] for g in groups] #12
== U comprehension that stops
async def f(ids):
    return [await get(await token(i)) for i in ids] #12
== D local function with the value as a default
async def f():
    a = await get(u1) #1
    def url(x=a):
        return x
    b = await load(url()) #2
    return b
== U own module-level cursor
def f():
    a = cur.fetchone() #1
    b = cur.fetchone() #2
    return a, b
== U begin
async def f(pool):
    tx = await pool.begin() #1
    b = await pool.fetch(q) #2
    return tx, b
== D second in a loop whose length is the value
async def f():
    n = await get(u1) #1
    for i in range(n):
        b = await load(i) #2
        print(b)
== D item of a loop over the value
async def f():
    rows = await get(u1) #1
    names = []
    for row in rows:
        names.append(row.name)
    b = await load(names) #2
    return b
== I loop over the value before
async def f():
    rows = await get(u1) #1
    names = []
    for row in rows:
        names.append(row.name)
    b = await load(u2) #2
    return b, names
== D counted by the value
async def f():
    rows = await get(u1) #1
    n = 0
    for row in rows:
        n += 1
    b = await load(n) #2
    return b
== D return from a loop over the value
async def f():
    rows = await get(u1) #1
    for row in rows:
        if row.bad:
            return None
    b = await load(u2) #2
    return b
== U call whose effect reads the value, in an expression
async def f():
    a = await get(u1) #1
    ok = cache.put("a", a)
    b = await load(u2) #2
    return b, ok
== D first in a lambda's closure list
async def f():
    todo = []
    a = await get(u1) #1
    todo.append(lambda: a)
    b = await load(todo) #2
    return b
== U instance that holds the receiver
async def f(store):
    users = Users(store)
    orders = Orders(store)
    a = await users.find(1) #1
    b = await orders.find(1) #2
    return a, b
== U two on one line in a loop
async def f(ids):
    x = None
    for i in ids:
        x = g(await get_a(i, x), await get_b(i, x)) #12
    return x
== D return from a while over the value
async def f():
    a = await get(u1) #1
    while a.busy:
        return 1
    b = await load(u2) #2
    return b
== D return from a for over the value
async def f():
    for row in await get(u1): #1
        return row
    b = await load(u2) #2
    return b
== D for else
async def f(ids):
    for i in ids:
        r = await get(i) #1
        if r.ok:
            break
    else:
        b = await load(u2) #2
    return b, r
== D first that answers
async def f(urls):
    r = None
    for u in urls:
        if r is None:
            r = await get(u) #12
    return r
== U flag that skips
async def f(urls):
    done = False
    for u in urls:
        if done:
            continue
        r = await get(u) #12
        if r.ok:
            done = True
    return r
== U iterator that moves
async def f(urls):
    it = iter(urls)
    for u in it:
        r = await get(u) #12
        if r.bad:
            next(it)
    return r
== U client that changes
async def f(client):
    a = await client.get(u1) #1
    client.headers.update(token=a)
    b = await client.get(u2) #2
    return b
== U closure that collects
async def f():
    out = []
    def put(x):
        out.append(x)
        return 1
    n = put(await get(u1)) #1
    b = await load(out) #2
    return b, n
== I second in a nested function's default stays apart
async def f():
    a = await get(u1) #1
    def g(x=1):
        return x
    b = await get(g()) #2
    return a, b
"""
TABLE = [(block.split(" ", 1)[0], *block.split(" ", 1)[1].split("\n", 1)) for block in CASES.strip()[3:].split("\n== ")]


def compiled(text, name, code_name="f"):
    """The code of the function, as if from a file of that name, which linecache has."""
    filename = f"/nowhere/{name}.py"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return inner(compile(text, filename, "exec"), code_name)


def inner(code, name):
    if code.co_name == name:
        return code
    return next(
        (found for const in code.co_consts if hasattr(const, "co_name") and (found := inner(const, name))), None
    )


def marked(text):
    lines = text.splitlines()
    return tuple(next(n for n, line in enumerate(lines, 1) if mark in line.partition("#")[2]) for mark in "12")


@pytest.mark.parametrize(("expected", "name", "text"), TABLE, ids=[row[1] for row in TABLE])
def test_the_second_call(expected, name, text):
    text += "\n"
    assert between(compiled(text, name), *marked(text)) is {"I": I, "D": D, "U": U}[expected]


@pytest.mark.parametrize(("expected", "name", "text"), TABLE, ids=[row[1] for row in TABLE])
def test_a_decorated_method_is_the_same(expected, name, text):
    """GIVEN the same in a class, under a decorator, with a text that starts in column 0 THEN so is the answer."""
    first, second = marked(text)
    text = "class A:\n    @wraps(\n        1)\n" + textwrap.indent(text, "    ") + '\n        """\nx\n        """\n'
    assert between(compiled(text, f"method {name}"), first + 3, second + 3) is {"I": I, "D": D, "U": U}[expected]


def test_a_comprehension_with_code_of_its_own_is_found_in_its_function():
    """GIVEN the frame of a comprehension, as up to 3.11, whose function follows another of a similar name."""
    text = "def ff():\n    pass\nasync def f(ids):\n    x = 1\n    return [\n        await get(i)\n        for i in ids\n    ]\n"
    code = compiled(text, "own", "<listcomp>") or compiled(text, "own")
    assert between(code, 6, 6) is I


def test_what_has_no_source_is_unknown():
    namespace = {}
    exec("def f():\n    a = get(1)\n    b = get(2)\n    return a, b\n", namespace)
    assert between(namespace["f"].__code__, 2, 3) is U


@pytest.mark.parametrize(
    "text",
    [
        "f = lambda: (get(1),\n    get(2),\n    3)\n",
        "class f:\n    a = get(1)\n    b = get(2)\n",
        "def g():\n    return (get(i)\n        for i in (1,\n 2))\n",
    ],
    ids=["lambda", "class", "generator"],
)
def test_code_that_is_no_function_is_unknown(text):
    names = ["<lambda>", "<genexpr>", "f"]
    code = next(found for name in names if (found := compiled(text, "none" + text[:3], name)))
    assert between(code, 2, 2) is U
    assert between(code, 2, 3) is U


SOURCE = "def f():\n    a = get(1)\n    b = get(2)\n    return a, b\n"


@pytest.mark.parametrize(
    "now",
    [
        "",
        "\n" + SOURCE,
        SOURCE.replace("get(1)", "load(1)").replace("get(2)", "load(2)"),
        SOURCE.replace("def f", "def g"),
        SOURCE.replace("return a", "return (a"),
        SOURCE.replace("    b =", "b ="),
        "def f():\n    a = get(1); b = get(2)\n    return a, b\n",
        SOURCE.replace("1", "\0"),
        "def f():\n    a = get(" + "(" * 150 + "1\n",
        "x = 1\n",
    ],
    ids=["gone", "moved", "renamed", "other", "unclosed", "dedented", "joined", "null", "deep", "short"],
)
def test_source_that_is_not_what_was_compiled_is_unknown(now, request):
    name = request.node.name
    code = compiled(SOURCE, name)
    assert between(code.replace(co_filename=f"/nowhere/{name} before.py"), 2, 3) is U  # no such file
    linecache.cache[code.co_filename] = (len(now), None, now.splitlines(keepends=True), code.co_filename)
    assert between(code, 2, 3) is U


@pytest.mark.parametrize("lines", [(0, 2), (2, 99), (-1, -1), (1, 2), (4, 4)])
def test_lines_without_a_call_are_unknown(lines):
    assert between(compiled(SOURCE, "lines"), *lines) is U


def test_an_expression_too_deep_is_unknown():
    text = f"def f():\n    a = get(1)\n    b = get({'x.' * 900}y)\n    return a, b\n"
    code, depth, limit = compiled(text, "deep"), len(inspect.stack()), sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 200)
    try:
        assert between(code, 2, 3) is U
    finally:
        sys.setrecursionlimit(limit)


def test_an_inner_line_of_a_statement_is_the_statement():
    text = "def f(u):\n    a = requests.get(\n        u,\n        x=1,\n    )\n    b = (\n        requests\n        .get(u)\n    )\n    return a, b\n"
    code = compiled(text, "inner")
    assert {between(code, first, second) for first in (2, 3, 4) for second in (7, 8)} == {I}


def test_threads_get_the_same_answers():
    codes = [(compiled(text + "\n", f"thread {n}"), *marked(text)) for n, (_, _, text) in enumerate(TABLE)]
    answers = []
    threads = [threading.Thread(target=lambda: answers.append([between(*code) for code in codes])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [[{"I": I, "D": D, "U": U}[expected] for expected, _, _ in TABLE]] * 4


@pytest.mark.skipif(sys.version_info >= (3, 11, 8), reason="parsing in two threads is safe here")
def test_nothing_is_parsed_while_another_thread_is_at_it():
    """GIVEN a Python whose parses disturb each other WHEN the app is parsing THEN there is no answer yet."""
    code = compiled("def f(u):\n    a = requests.get(u)\n    b = requests.get(u)\n    return a, b\n", "while parsing")
    parsing, go_on = threading.Event(), threading.Event()
    main = threading.get_ident()

    def wait(_phase, _info):
        if threading.get_ident() != main:
            parsing.set()
            go_on.wait()

    gc.collect()
    thread = threading.Thread(target=ast.parse, args=("f(a, [b, c])\n" * 2_000,))
    gc.callbacks.append(wait)
    try:
        thread.start()
        parsing.wait()
        assert between(code, 2, 3) is U
    finally:
        gc.callbacks.remove(wait)
        go_on.set()
        thread.join()
    assert between(code, 2, 3) is I


def test_any_function_of_the_standard_library_has_an_answer():
    """GIVEN code that nobody wrote for us THEN every pair of lines has an answer, and source is what was compiled."""
    for module in (ast, linecache, textwrap, threading):
        for value in vars(module).values():
            if code := getattr(value, "__code__", None):
                lines = sorted({line for *_, line in code.co_lines() if line})[:12]
                assert {type(between(code, first, second)) for first in lines for second in lines} == {Dependence}
