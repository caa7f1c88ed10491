// What the client says and keeps, whatever the server, the network, the disk and the clock do.

import assert from 'node:assert/strict'
import { fork } from 'node:child_process'
import { promises as fs } from 'node:fs'
import { createServer } from 'node:net'
import path from 'node:path'
import { after, before, beforeEach, test } from 'node:test'
import { LicenseClient } from '../../../client/javascript/keyledger-client.mjs'
import * as standin from './standin.mjs'
import {
  DAY,
  KEY,
  LAPTOP,
  NOW,
  OTHERS,
  OURS,
  OTHER_KEY,
  StandIn,
  answer,
  clientOf,
  licenseFile,
  machine,
  status,
  tree,
} from './standin.mjs'

const LAPTOP_ID = 'kl1.m990c5ae787ba88c8.d07c314fc355c8f7e.n74864ae018c8f5de'
let server

before(async () => (server = await new StandIn().start()))
after(() => server.stop())
beforeEach(() => {
  Object.assign(server, {
    code: 'VALID',
    clock: NOW,
    key: OURS,
    asked: [],
    bodies: [],
    instead: [],
    always: null,
    knownAs: undefined,
  })
})

const short = ({ valid, state, code }) => [valid, state, code]
const offline = status(500)

/** A license that was activated while the server was there. */
async function activated(more) {
  const made = await clientOf(server, more)
  assert.deepEqual(short(await made.client.activate(KEY)), [true, 'valid', 'VALID'])
  server.asked.length = server.bodies.length = 0
  return made
}

// ------------------------------------------------------------------------------------------------ the plain way

test('a key takes a seat and brings a license file', async () => {
  const { client } = await clientOf(server)
  const result = await client.activate(`  ${KEY}\n`)
  assert.deepEqual(result, {
    valid: true,
    state: 'valid',
    code: 'VALID',
    detail: 'says VALID',
    message: 'Your license is valid.',
    source: 'online',
    licenseId: standin.idOf(KEY),
    productName: 'Wave',
    tier: 'pro',
    features: ['batch'],
    expiry: null,
    graceEnd: '2026-12-20T12:00:00Z',
    seatsUsed: 1,
    maxSeats: 1,
    activated: true,
    clockOff: false,
    retryAfter: null,
    helpUrl: null,
  })
  const { nonce, ...sent } = server.bodies[0]
  assert.deepEqual(sent, { license_key: KEY, hardware_id: LAPTOP_ID, device_name: 'Laptop', product: 'wave' })
  assert.match(nonce, /^[\w-]{22}$/)
  assert.deepEqual(server.asked, ['file'])
})

test('at a start the server is asked, and takes no seat by itself', async () => {
  const { client } = await activated()
  assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  assert.deepEqual([server.asked, server.bodies[0].bind], [['validate'], false])
})

test('each request has a nonce of its own', async () => {
  const { client } = await activated()
  for (let time = 0; time < 5; time++) await client.validate()
  assert.equal(new Set(server.bodies.map((body) => body.nonce)).size, 5)
})

test('the status is known without asking', async () => {
  const { client, stateDir, system } = await activated()
  const again = (await clientOf(server, { stateDir, system })).client
  for (const one of [client, again]) {
    const { valid, state, graceEnd, features, licenseId, source } = await one.status()
    assert.deepEqual([valid, state, graceEnd, features], [true, 'valid', '2026-12-20T12:00:00Z', ['batch']])
    assert.deepEqual([licenseId, source], [standin.idOf(KEY), 'offline'])
  }
  assert.deepEqual(server.asked, [])
})

test('a seat is given back, and the key forgotten', async () => {
  const { client, stateDir } = await activated()
  assert.deepEqual(short(await client.deactivate()), [false, 'unlicensed', 'DEACTIVATED'])
  assert.deepEqual(short(await client.status()), [false, 'unlicensed', 'UNLICENSED'])
  assert.equal((await fs.readFile(path.join(stateDir, 'license.json'), 'utf8')).includes(KEY), false)
})

test('a seat that could not be given back is kept', async () => {
  const { client } = await activated()
  server.always = offline
  assert.deepEqual(short(await client.deactivate()), [true, 'grace', 'VALID'])
  assert.deepEqual((await client.status()).valid, true)
})

test('what is no key is asked of nobody', async () => {
  const { client } = await clientOf(server)
  for (const typed of ['', '  \n', 'a\u0000b', 'k'.repeat(129), null, undefined]) {
    assert.equal((await client.activate(typed)).code, 'NOT_A_KEY')
  }
  assert.deepEqual(server.asked, [])
})

// ---------------------------------------------------------------------------------------- denied is not unreachable

for (const code of ['SUSPENDED', 'NOT_FOUND']) {
  test(`a signed ${code} is not asked again, and ends the days offline`, async () => {
    const { client, stateDir, system } = await activated()
    server.code = code
    assert.deepEqual(short(await client.validate()), [false, 'denied', code])
    assert.deepEqual(server.asked, ['validate'])
    server.always = offline
    assert.deepEqual(short(await client.validate()), [false, 'denied', code])
    const restarted = (await clientOf(server, { stateDir, system })).client
    assert.deepEqual(short(await restarted.status()), [false, 'denied', code])
    assert.equal((await restarted.status()).message.length > 20, true)
  })
}

// ------------------------------------------------------------------------------------------------ no answer

const another = (change) => (request, response, signed) => answer(response, change(signed, request))
const PORTAL = '<!doctype html><title>Welcome to our hotel</title>'

const NO_ANSWERS = {
  'the server is off': [offline, 'NO_VERDICT', 'status 500', 3],
  'it breaks off': [(request) => request.socket.destroy(), 'NO_CONNECTION', null, 3],
  'it breaks off in the middle': [
    (request, response, { headers }) => {
      response.writeHead(200, { ...headers, 'Content-Length': 5000 })
      response.write('{"valid":')
      setImmediate(() => request.socket.destroy())
    },
    'NO_CONNECTION',
    null,
    3,
  ],
  'too much': [another(() => ({ text: ' '.repeat(3_000_000), headers: {} })), 'NO_CONNECTION', null, 3],
  'a forged one that names our key': [
    another(({ text }, request) => {
      const { sign } = OTHERS
      return { text, headers: standin.signatureOf(text, request.url, NOW, { kid: OURS.kid, sign }) }
    }),
    'UNSIGNED',
    'BAD_SIGNATURE',
    1,
  ],
  "a page of somebody's network": [status(200, { 'Content-Type': 'text/html' }, PORTAL), 'UNSIGNED', 'UNSIGNED', 1],
  'a redirect to a good answer': [
    status(307, { Location: '/shop/api/v1/licenses/validate' }, ''),
    'NO_VERDICT',
    'status 307',
    1,
  ],
  'an error of the app': [status(400), 'NO_VERDICT', 'status 400', 1],
  'a door that is closed': [status(403, {}, PORTAL), 'NO_VERDICT', 'status 403', 1],
}

for (const [name, [act, code, why, tries]] of Object.entries(NO_ANSWERS)) {
  test(`no answer is no denial: ${name}`, async () => {
    const { client } = await activated()
    server.always = act
    const result = await client.validate()
    assert.deepEqual([...short(result), result.graceEnd], [true, 'grace', 'VALID', '2026-12-20T12:00:00Z'])
    assert.deepEqual(server.asked, Array(tries).fill('validate'))
    const fresh = (await clientOf(server)).client
    const refused = await fresh.activate(KEY)
    assert.deepEqual(short(refused), [false, 'unreachable', code])
    if (why) assert.equal(refused.detail, why)
  })
}

test('one that is lost is asked again', async () => {
  const { client } = await activated()
  server.instead = [offline, (request) => request.socket.destroy()]
  assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  assert.equal(new Set(server.bodies.map((body) => body.nonce)).size, 3)
})

test('a port at which nobody listens', async () => {
  const nobody = createServer()
  await new Promise((resolve) => nobody.listen(0, '127.0.0.1', resolve))
  const { port } = nobody.address()
  await new Promise((resolve) => nobody.close(resolve))
  const { stateDir, system } = await activated()
  const { client } = await clientOf(`http://127.0.0.1:${port}`, { stateDir, system })
  assert.deepEqual(short(await client.validate()), [true, 'grace', 'VALID'])
})

for (const code of [429, 503]) {
  test(`${code}: after as long as it asks for, within the time limit`, async () => {
    const { client } = await activated()
    server.instead = [status(code, { 'Retry-After': '0' })]
    assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  })

  test(`${code}: it is left alone when it asks for longer, and the file counts`, async () => {
    const { client } = await activated()
    server.always = status(code, { 'Retry-After': '600' })
    assert.deepEqual([(await client.validate()).state, server.asked.length], ['grace', 1])
    const { state, retryAfter } = await client.validate()
    assert.deepEqual([state, retryAfter > 500 && retryAfter <= 600, server.asked.length], ['grace', true, 1])
  })
}

test('a pause that nobody signed is an hour at most', async () => {
  const { client } = await activated()
  server.always = status(503, { 'Retry-After': 'Fri, 31 Dec 9999 23:59:59 GMT' })
  assert.equal((await client.validate()).retryAfter, 3600)
})

const HANGING = {
  'never answers': () => {},
  'answers and never ends': (_, response, { headers }) => response.writeHead(200, headers).write('{'),
}
for (const [name, act] of Object.entries(HANGING)) {
  test(`a server that ${name} is waited for no longer than allowed`, async () => {
    const { stateDir, system } = await activated()
    const { client } = await clientOf(server, { stateDir, system, timeout: 60 })
    server.always = act
    assert.deepEqual(short(await client.validate()), [true, 'grace', 'VALID'])
    const fresh = await clientOf(server, { timeout: 60 })
    assert.equal((await fresh.client.activate(KEY)).code, 'TIMED_OUT')
  })
}

// ------------------------------------------------------------------------------------------------ the clock

test('a clock that was put back is told', async () => {
  const { client, clock } = await activated()
  clock.now = NOW - 2 * DAY
  const result = await client.status()
  assert.deepEqual([...short(result), result.clockOff], [false, 'unreachable', 'CLOCK_BACK', true])
})

test('with a wrong clock the server is believed all the same, and says so', async () => {
  for (const off of [-3650 * DAY, 3650 * DAY]) {
    const { client, clock } = await clientOf(server)
    clock.now = NOW + off
    const result = await client.activate(KEY)
    assert.deepEqual(
      [...short(result), result.clockOff, result.graceEnd],
      [true, 'valid', 'VALID', true, '2026-12-20T12:00:00Z'],
    )
    assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  }
})

// ------------------------------------------------------------------------------------------------ license files

test('a file is brought to a computer without a network', async () => {
  const { client } = await clientOf(server)
  server.always = offline
  const [, ...lines] = (await client.deviceCode()).trim().split('\n').slice(0, -1)
  const code = JSON.parse(Buffer.from(lines.join(''), 'base64'))
  assert.deepEqual([code.hardware_id, code.device_name, code.product], [LAPTOP_ID, 'Laptop', 'wave'])
  const result = await client.installFile(licenseFile({ hardware_id: code.hardware_id }))
  assert.deepEqual(
    [...short(result), result.graceEnd, result.features],
    [true, 'valid', 'VALID', '2026-12-20T12:00:00Z', ['batch']],
  )
  assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  assert.deepEqual(server.asked, [])
})

const edited = async (stateDir, changes) => {
  for (const name of ['license.json', 'license.backup.json']) {
    const file = path.join(stateDir, name)
    await fs.writeFile(file, JSON.stringify({ ...JSON.parse(await fs.readFile(file)), ...changes }))
  }
}

test('of what was edited the key alone is believed, and the next answer brings the rest', async () => {
  const endless = licenseFile({ expires: null }, { ...OTHERS, kid: OURS.kid })
  for (const changes of [{ seen: NOW - 100 * DAY }, { file: endless }, { denied: null, missed: 1 }, { mac: null }]) {
    const { client, stateDir } = await activated()
    await edited(stateDir, changes)
    server.always = offline
    assert.deepEqual(short(await client.validate()), [false, 'unreachable', 'NO_VERDICT'])
    server.always = null
    assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
    server.always = offline
    assert.deepEqual(short(await client.validate()), [true, 'grace', 'VALID'])
    server.always = null
  }
})

test('a denial is not edited away', async () => {
  const { client, stateDir } = await activated()
  server.code = 'BANNED'
  await client.validate()
  await edited(stateDir, { denied: null })
  assert.equal((await client.status()).valid, false)
})

// ------------------------------------------------------------------------------------------------ what is kept

test('a spoiled state is taken from its copy; two spoiled ones are none', async () => {
  for (const spoiled of ['', '{', '\0\0\0\0', '[]', 'null', '{"format":99}']) {
    const { client, stateDir } = await activated()
    await fs.writeFile(path.join(stateDir, 'license.json'), spoiled)
    assert.deepEqual(short(await client.status()), [true, 'valid', 'VALID'])
    await fs.writeFile(path.join(stateDir, 'license.json'), spoiled)
    await fs.writeFile(path.join(stateDir, 'license.backup.json'), spoiled)
    assert.deepEqual(short(await client.status()), [false, 'unlicensed', 'UNLICENSED'])
    assert.deepEqual(short(await client.activate(KEY)), [true, 'valid', 'VALID'])
  }
})

test('a folder that cannot be written to takes no license away', async () => {
  const file = path.join(await standin.folder(), 'file')
  await fs.writeFile(file, '')
  const { client } = await clientOf(server, { stateDir: path.join(file, 'below') })
  assert.deepEqual(short(await client.activate(KEY)), [true, 'valid', 'VALID'])
  assert.deepEqual(short(await client.validate()), [true, 'valid', 'VALID'])
  server.always = offline
  assert.deepEqual(short(await client.validate()), [true, 'grace', 'VALID'])
  server.always = null
  server.code = 'SUSPENDED'
  await client.validate()
  assert.deepEqual(short(await client.status()), [false, 'denied', 'SUSPENDED'])
})

test('what could not be written counts until the disk takes it, or another writes something else', async () => {
  const { client, stateDir, system } = await activated()
  const { rename } = fs
  const full = async () => {
    throw Object.assign(new Error('the disk is full'), { code: 'ENOSPC' })
  }
  const validated = async (code) => {
    server.code = code
    Object.assign(fs, { rename: full })
    try {
      await client.validate()
    } finally {
      Object.assign(fs, { rename })
    }
    return short(await client.status())
  }
  const restarted = async () => (await clientOf(server, { stateDir, system })).client
  assert.deepEqual(await validated('SUSPENDED'), [false, 'denied', 'SUSPENDED'])
  assert.equal((await (await restarted()).status()).valid, true)
  await client.validate()
  assert.deepEqual(short(await (await restarted()).status()), [false, 'denied', 'SUSPENDED'])
  assert.deepEqual(await validated('VALID'), [true, 'valid', 'VALID'])
  await (await restarted()).deactivate()
  assert.deepEqual(short(await client.status()), [false, 'unlicensed', 'UNLICENSED'])
})

test('the state is on the disk before it takes the place of the old one', async () => {
  const { client, stateDir } = await activated()
  const handle = await fs.open(path.join(stateDir, 'license.json'))
  const [kind, rename, events] = [Object.getPrototypeOf(handle), fs.rename, []]
  const { sync } = kind
  await handle.close()
  kind.sync = async function () {
    events.push('sync')
    return sync.call(this)
  }
  fs.rename = async (...given) => {
    events.push('rename')
    if (events.length < 4) throw Object.assign(new Error('a scanner reads it'), { code: 'EPERM' }) // as Windows does
    return rename(...given)
  }
  server.code = 'SUSPENDED'
  try {
    await client.validate()
  } finally {
    Object.assign(kind, { sync })
    Object.assign(fs, { rename })
  }
  assert.deepEqual(events, ['sync', 'rename', 'rename', 'rename', 'sync', 'rename'])
  assert.deepEqual(short(await client.status()), [false, 'denied', 'SUSPENDED'])
})

test('nobody else reads the state, and nothing is left beside it', { skip: process.platform === 'win32' }, async () => {
  const { client, stateDir } = await activated({ stateDir: path.join(await standin.folder(), 'app', 'license') })
  await client.validate()
  assert.deepEqual((await fs.readdir(stateDir)).sort(), ['license.backup.json', 'license.json'])
  for (const name of ['.', 'license.json']) {
    assert.equal((await fs.stat(path.join(stateDir, name))).mode & 0o077, 0)
  }
})

test('who is at work on the state is waited for', async () => {
  const { client, stateDir } = await activated()
  const lock = path.join(stateDir, 'license.lock')
  await fs.writeFile(lock, '')
  const { open } = fs
  let tries = 0
  fs.open = async (file, ...given) => {
    if (file === lock && ++tries === 300) await fs.unlink(lock) // now he is done
    return open(file, ...given)
  }
  server.code = 'SUSPENDED'
  try {
    await client.validate()
  } finally {
    Object.assign(fs, { open })
  }
  assert.equal(tries >= 300, true)
  assert.deepEqual(short(await client.status()), [false, 'denied', 'SUSPENDED'])
})

test('the lock of one who was killed is broken', async () => {
  const { client, stateDir } = await activated()
  const lock = path.join(stateDir, 'license.lock')
  await fs.writeFile(lock, '')
  await fs.utimes(lock, new Date(0), new Date(0))
  server.code = 'SUSPENDED'
  await client.validate()
  assert.deepEqual(short(await client.status()), [false, 'denied', 'SUSPENDED'])
  await assert.rejects(fs.stat(lock), { code: 'ENOENT' })
})

test('several processes on one folder: each state is whole, and no key is lost', async () => {
  const { stateDir } = await activated()
  const root = await tree(LAPTOP)
  const child = new URL('./process.mjs', import.meta.url)
  const told = await Promise.all(
    [1, 2].map(
      () =>
        new Promise((resolve, reject) => {
          const process = fork(child, [server.url, stateDir, root, KEY], { silent: true })
          let said = ''
          for (const stream of [process.stdout, process.stderr]) stream.on('data', (text) => (said += text))
          process.on('error', reject).on('exit', (code) => resolve([code, said]))
        }),
    ),
  )
  assert.deepEqual(told, Array(2).fill([0, ''])) // nor does the client print anything
  const state = JSON.parse(await fs.readFile(path.join(stateDir, 'license.json')))
  assert.deepEqual([state.license_key, state.last_id], [KEY, LAPTOP_ID])
  assert.deepEqual((await fs.readdir(stateDir)).sort(), ['license.backup.json', 'license.json'])
})

for (const code of ['VALID', 'SUSPENDED']) {
  test(`what another window gave back or entered meanwhile stays so: ${code}`, async () => {
    for (const entered of [null, OTHER_KEY]) {
      const { client, stateDir, system } = await activated()
      const window = (await clientOf(server, { stateDir, system })).client
      server.code = code
      server.instead = [
        async (_, response, signed) => {
          server.code = 'VALID'
          await (entered ? window.activate(entered) : window.deactivate())
          answer(response, signed)
        },
      ]
      assert.equal((await client.validate()).code, code)
      const state = JSON.parse(await fs.readFile(path.join(stateDir, 'license.json')))
      assert.deepEqual([state.license_key, state.denied], [entered, null])
    }
  })
}

test('verbs that are called at once go one after another', async () => {
  const { client } = await clientOf(server)
  const results = await Promise.all([client.activate(KEY), client.validate(), client.deactivate(), client.status()])
  assert.deepEqual(
    results.map((result) => result.code),
    ['VALID', 'VALID', 'DEACTIVATED', 'UNLICENSED'],
  )
})

// ------------------------------------------------------------------------------------------------ the computer

const idOf = async (client) => {
  const lines = (await client.deviceCode()).trim().split('\n').slice(1, -1)
  return JSON.parse(Buffer.from(lines.join(''), 'base64')).hardware_id
}

test('with another disk it is the same computer, also offline, and the server hears of it', async () => {
  const { stateDir } = await activated()
  const disk = { 'sys/devices/pci0/nvme0/nvme0n1/device/serial': 'WD-ANOTHER-ONE-9\n' }
  const upgraded = await clientOf(server, { stateDir, files: disk })
  server.always = offline
  assert.deepEqual(short(await upgraded.client.validate()), [true, 'grace', 'VALID'])
  server.always = null
  server.asked.length = server.bodies.length = 0
  await upgraded.client.validate()
  assert.deepEqual(server.asked, ['validate', 'file'])
  assert.notEqual(server.bodies[1].hardware_id, LAPTOP_ID)
  const files = { ...disk, 'etc/machine-id': '0123456789abcdef0123456789abcdee\n' } // then another installation
  const renewed = await clientOf(server, { stateDir, files })
  assert.equal((await renewed.client.status()).valid, true)
})

test('a folder that was copied to another computer is not licensed there', async () => {
  const { stateDir } = await activated()
  const files = {
    'etc/machine-id': '0123456789abcdef0123456789abcdee\n',
    'sys/class/net/eth0/address': '3c:7c:3f:aa:bb:cc\n',
  }
  const { client } = await clientOf(server, {
    stateDir,
    files: { ...files, 'sys/devices/pci0/nvme0/nvme0n1/device/serial': 'OTHER-DISK-1\n' },
  })
  assert.equal((await client.status()).code, 'OTHER_DEVICE')
  await client.validate()
  assert.notEqual(server.bodies[0].hardware_id, LAPTOP_ID)
})

test('an answer may name the computer as it was, and no other', async () => {
  server.knownAs = 'kl1.m990c5ae787ba88c8.d1a214ef0c88470ad.n74864ae018c8f5de'
  await activated()
  server.knownAs = 'kl1.m990c5ae787ba88c8.d1a214ef0c88470ad.n9d7545d24f06e1c4'
  const { client } = await clientOf(server)
  assert.equal((await client.activate(KEY)).detail, 'OTHER_DEVICE')
})

test('a program that was too slow once does not make another computer of this one', async () => {
  const guid = '    MachineGuid    REG_SZ    9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70\r\n'
  const devices = 'disk=S4EWNX0M123456T\r\nmodel=Samsung\r\ncard=A4:83:E7:01:23:45\r\n'
  const run = (slow) => async (_, args) => {
    if (args.includes('MachineGuid')) return guid
    if (args.includes('-Command') && !slow) return devices
    throw new Error('timed out')
  }
  const { client, stateDir } = await activated({ system: machine('/', { platform: 'win32', run: run(false) }) })
  const known = await idOf(client)
  const slow = await clientOf(server, { stateDir, system: machine('/', { platform: 'win32', run: run(true) }) })
  assert.equal((await slow.client.status()).valid, true)
  await slow.client.validate()
  assert.equal(server.bodies[0].hardware_id, known)
})

const SLOW = {
  MachineGuid: '    MachineGuid    REG_SZ    9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70\r\n',
  LastConfig: '    LastConfig    REG_SZ    {4c4c4544-0042-3510-8054-b9c04f4e5932}\r\n',
  '-Command': 'disk=S4EWNX0M123456T\r\nmodel=Samsung\r\ncard=A4:83:E7:01:23:45\r\n',
}

/** Windows, on which PowerShell takes as many milliseconds as `takes` says at the moment. */
function slowComputer(takes, told = SLOW) {
  const run = async (_, args, timeout) => {
    const name = Object.keys(told).find((word) => args.includes(word))
    if (name === '-Command' && takes.forbidden) throw Object.assign(new Error('forbidden'), { code: 'EACCES' })
    if (!name || (name === '-Command' && takes.now > (timeout ?? 5000))) throw new Error('timed out')
    return told[name]
  }
  return machine('/', { platform: 'win32', run })
}

test('a computer that is slow at the first activation is waited for', async () => {
  const takes = { now: 20_000 }
  const { client, stateDir } = await activated({ system: slowComputer(takes) })
  takes.now = 0
  const next = await clientOf(server, { stateDir, system: slowComputer(takes) })
  await next.client.validate()
  const known = await idOf(client)
  assert.match(known, /^kl1\.m\w{16}\.b\w{16}\.d\w{16}\.n\w{16}$/)
  assert.deepEqual([server.bodies[0].hardware_id, server.asked], [known, ['validate']])
})

test('half of a computer takes no seat: it would be another one at the next start', async () => {
  const takes = { now: 60_000 }
  const { client, stateDir } = await clientOf(server, { system: slowComputer(takes) })
  const unread = [false, 'unreachable', 'NOT_READ']
  assert.deepEqual(short(await client.activate(KEY)), unread)
  assert.equal(await client.deviceCode(), '')
  assert.deepEqual(short(await client.installFile(licenseFile())), unread)
  assert.deepEqual(short(await client.status()), [false, 'unlicensed', 'UNLICENSED'])
  await fs.writeFile(path.join(stateDir, 'license.json'), JSON.stringify({ format: 1, license_key: KEY })) // was edited
  assert.deepEqual(short(await client.validate()), unread)
  assert.deepEqual(short(await client.deactivate()), unread)
  assert.deepEqual(server.asked, [])
  takes.now = 0
  assert.deepEqual(short(await client.activate(KEY)), [true, 'valid', 'VALID'])
  takes.now = 60_000
  const slow = (await clientOf(server, { stateDir, system: slowComputer(takes) })).client
  assert.deepEqual(short(await slow.validate()), [true, 'valid', 'VALID'])
  assert.equal(server.bodies[0].hardware_id, server.bodies[1].hardware_id)
})

test('what is missing only by half is enough, if the computer is known again by the rest', async () => {
  const told = { ...SLOW, '-Command': 'failed=disk\r\ncard=A4:83:E7:01:23:45\r\n' }
  const { client } = await clientOf(server, { system: slowComputer({ now: 0 }, told) })
  assert.deepEqual(short(await client.activate(KEY)), [true, 'valid', 'VALID'])
})

test('what will never be told is not waited for: the rest is this computer then', async () => {
  const broken = { ...SLOW, '-Command': 'failed=disk\r\nfailed=cards\r\n' } // twice the same
  for (const system of [slowComputer({ forbidden: true }), slowComputer({ now: 0 }, broken)]) {
    const { client, stateDir } = await activated({ system })
    assert.match(await idOf(client), /^kl1\.m\w{16}\.b\w{16}$/)
    const restarted = (await clientOf(server, { stateDir, system })).client
    assert.deepEqual(short(await restarted.validate()), [true, 'valid', 'VALID'])
  }
})

test('what is too slow again and again is not asked for at each call', async () => {
  let asked = 0
  const run = async (_, args) => {
    if (args.includes('MachineGuid')) return '    MachineGuid    REG_SZ    9f2d6c1e-7b1a-4f0e-9c55-3c6a1d2e8f70\r\n'
    asked += args.includes('-Command')
    throw new Error('timed out')
  }
  const { client } = await clientOf(server, { system: machine('/', { platform: 'win32', run }) })
  for (let time = 0; time < 6; time++) await client.status()
  assert.equal(asked, 3)
})

test('a name that the server would refuse is mended', async () => {
  const { client } = await clientOf(server, { deviceName: `\u0007Zoë\ud800${'\u{1f4bb}'.repeat(200)}` })
  await client.activate(KEY)
  const sent = server.bodies[0].device_name
  assert.deepEqual([[...sent].length, sent.slice(0, 6)], [128, 'Zoë\ufffd\u{1f4bb}'])
})

test('a container is known by what lies in its state folder', async () => {
  const container = { system: machine(await tree({ '.dockerenv': '' })) }
  const { client, stateDir } = await activated(container)
  const known = await idOf(client)
  assert.match(known, /^kl1\.x[0-9a-f]{16}$/)
  await (await clientOf(server, { ...container, stateDir })).client.validate()
  assert.equal(server.bodies[0].hardware_id, known)
})

test('a container whose folder cannot be written to takes no seat, which it would lose with its end', async () => {
  const file = path.join(await standin.folder(), 'file')
  await fs.writeFile(file, '')
  const system = machine(await tree({ '.dockerenv': '' }))
  const { client } = await clientOf(server, { system, stateDir: path.join(file, 'below') })
  for (let time = 0; time < 2; time++) {
    assert.deepEqual(short(await client.activate(KEY)), [false, 'unreachable', 'NOT_KEPT'])
  }
  assert.equal(await client.deviceCode(), '')
  assert.deepEqual(server.asked, [])
})

// ------------------------------------------------------------------------------------------------ options

test('an option that makes no sense is named', () => {
  const good = {
    server: 'https://licenses.example.com/shop/',
    product: 'wave',
    publicKey: OURS.publicKey,
    stateDir: '/nowhere',
  }
  assert.equal(new LicenseClient(good).portalUrl, 'https://licenses.example.com/shop/portal')
  for (const [name, value] of [
    ['server', 'http://licenses.example.com'],
    ['server', 'ftp://127.0.0.1'],
    ['server', 'http://127.0.0.1.example.com'],
    ['server', 'https://ann:secret@example.com'],
    ['server', 'https://example.com/?a=b'],
    ['server', ''],
    ['server', undefined],
    ['product', ''],
    ['publicKey', undefined],
    ['publicKey', []],
    ['publicKey', 'bm8='],
    ['publicKey', [OURS.publicKey, 'x']],
    ['stateDir', undefined],
    ['timeout', 0],
    ['timeout', NaN],
  ]) {
    const named = { name: 'TypeError', message: new RegExp(`^${name}: `) }
    assert.throws(() => new LicenseClient({ ...good, [name]: value }), named, `${name} ${value}`)
  }
})

test('several public keys, as base64 or as PEM', async () => {
  const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), Buffer.from(OTHERS.publicKey, 'base64')])
  const pem = `-----BEGIN PUBLIC KEY-----\n${spki.toString('base64')}\n-----END PUBLIC KEY-----\n`
  const { client } = await clientOf(server, { publicKey: [OURS.publicKey, pem] })
  assert.equal((await client.activate(KEY)).valid, true)
  server.key = OTHERS
  assert.equal((await client.validate()).valid, true)
})

test('a key with the prefix of its product', async () => {
  const key = `WAVE-${KEY}`
  const { client } = await clientOf(server, { keyPrefix: 'WAVE' })
  server.always = (request, response, signed) => {
    const text = signed.text.replace(/lic_[0-9a-f]{20}/, standin.idOf(key))
    answer(response, { text, headers: standin.signatureOf(text, request.url, NOW, OURS) })
  }
  assert.equal((await client.activate(KEY.toLowerCase())).valid, true)
})
