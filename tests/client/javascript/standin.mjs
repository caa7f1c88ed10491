// A license server for the tests, which signs as the real one does and fails as told; and computers that are none.

import { createHash, createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { promises as fs, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { LicenseClient, licenseIds } from '../../../client/javascript/keyledger-client.mjs'

export const NOW = Date.parse('2026-11-20T12:00:00Z')
export const DAY = 86400_000
export const KEY = '1K9C2F-EHEYAF-CBGKE4-FPRWP6-G57X10'
export const OTHER_KEY = 'IMPORTED-KEY-2'

/** Of 32 bytes that are the seed, as the server's SIGNING_KEY. */
export function signer(seed) {
  const pkcs8 = Buffer.concat([Buffer.from('302e020100300506032b657004220420', 'hex'), seed])
  const key = createPrivateKey({ key: pkcs8, format: 'der', type: 'pkcs8' })
  const raw = createPublicKey(key).export({ format: 'der', type: 'spki' }).subarray(12)
  const kid = createHash('sha256').update(raw).digest('hex').slice(0, 16)
  return {
    kid,
    publicKey: raw.toString('base64'),
    sign: (text) => sign(null, Buffer.from(text), key).toString('base64'),
  }
}

export const OURS = signer(Buffer.alloc(32, 1))
export const OTHERS = signer(Buffer.alloc(32, 2))

export function licenseFile(changes = {}, key = OURS) {
  const says = {
    format: 1,
    kid: key.kid,
    license: { id: idOf(KEY), key_sha256: sha256(KEY), purchase_date: at(NOW), expiry_date: null, max_devices: 1 },
    product: { id: 'wave', name: 'Wave' },
    tier: 'pro',
    features: ['batch'],
    hardware_id: null,
    device_name: null,
    issued: at(NOW),
    expires: at(NOW + 30 * DAY),
    offline_days: 30,
    ...changes,
  }
  const enc = Buffer.from(JSON.stringify(says)).toString('base64')
  const whole = JSON.stringify({ enc, sig: key.sign(`license/${enc}`), alg: 'ed25519' })
  const lines = Buffer.from(whole)
    .toString('base64')
    .match(/.{1,64}/g)
  return ['-----BEGIN LICENSE FILE-----', ...lines, '-----END LICENSE FILE-----', ''].join('\n')
}

export class StandIn {
  code = 'VALID'
  clock = NOW
  key = OURS
  asked = [] // the verbs, in order
  bodies = []
  instead = [] // what to do for the next requests in the place of an answer: (request, response, signed) => …
  always = null

  async start() {
    this.server = createServer((request, response) => this.#hear(request, response))
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve))
    this.url = `http://127.0.0.1:${this.server.address().port}/shop`
    return this
  }

  async stop() {
    this.server.closeAllConnections()
    await new Promise((resolve) => this.server.close(resolve))
  }

  async #hear(request, response) {
    const pieces = []
    for await (const piece of request) pieces.push(piece)
    const body = JSON.parse(Buffer.concat(pieces))
    this.asked.push(request.url.split('/').pop())
    this.bodies.push(body)
    const signed = this.#signed(request, body)
    const act = this.instead.shift() ?? this.always
    if (act) act(request, response, signed)
    else answer(response, signed)
  }

  #signed(request, body) {
    const valid = this.code === 'VALID'
    const key = licenseIds(body.license_key).includes(idOf(KEY)) ? KEY : body.license_key
    const license = {
      id: idOf(key),
      product_id: this.code === 'PRODUCT_SCOPE_MISMATCH' ? 'team' : 'wave',
      product_name: 'Wave',
      tier: 'pro',
      features: ['batch'],
      purchase_date: at(NOW),
      expiry_date: null,
      status: 'active',
      max_devices: 1,
      devices_used: 1,
    }
    const device = { hardware_id: this.knownAs ?? body.hardware_id, device_name: 'Laptop', bound_at: at(NOW) }
    const verdict = {
      valid,
      code: this.code,
      detail: `says ${this.code}`,
      license: this.code === 'NOT_FOUND' ? null : license,
      device: valid && !request.url.endsWith('/deactivate') ? device : null,
      nonce: body.nonce,
      ts: at(this.clock),
    }
    if (valid && request.url.endsWith('/file')) {
      const [issued, expires] = [at(this.clock), at(this.clock + 30 * DAY)]
      const whose = { id: license.id, key_sha256: sha256(key) }
      const said = {
        kid: this.key.kid,
        license: { ...whose, purchase_date: at(NOW), expiry_date: null, max_devices: 1 },
        hardware_id: device.hardware_id,
        issued,
        expires,
      }
      Object.assign(verdict, { license_file: licenseFile(said, this.key), issued, expires, activated: true })
    }
    const text = JSON.stringify(verdict)
    return { text, headers: signatureOf(text, request.url, this.clock, this.key) }
  }
}

export function signatureOf(text, url, clock, key) {
  const digest = `sha-256=:${createHash('sha256').update(text).digest('base64')}:`
  const covered = '("@status" "content-digest" "@method";req "@path";req)'
  const parameters = `${covered};created=${Math.floor(clock / 1000)};keyid="${key.kid}";alg="ed25519"`
  const base =
    `"@status": 200\n"content-digest": ${digest}\n"@method";req: POST\n"@path";req: ${url}\n` +
    `"@signature-params": ${parameters}`
  return {
    'Content-Type': 'application/json',
    'Content-Digest': digest,
    'Signature-Input': `sig1=${parameters}`,
    Signature: `sig1=:${key.sign(base)}:`,
  }
}

export function answer(response, { text, headers }, status = 200) {
  response.writeHead(status, headers)
  response.end(text)
}

export const status =
  (code, headers = {}, text = '{"errors":[{"code":"X","title":"X","detail":"why"}]}') =>
  (_, response) =>
    answer(response, { text, headers: { 'Content-Type': 'application/json', ...headers } }, code)

/** A computer of these files and programs, in a folder of its own. */
export function machine(
  root,
  { platform = 'linux', env = {}, run = () => Promise.reject(new Error('no such program')) } = {},
) {
  return { platform, root, env, run, pause: async () => {}, lockPatience: 60_000 } // however busy the machine is
}

/** Folders and files as /sys has them: a text is a file, `-> target` a link, relative to where it stands. */
export async function tree(files) {
  const root = await folder()
  for (const [name, text] of Object.entries(files)) {
    const file = path.join(root, name)
    await fs.mkdir(path.dirname(file), { recursive: true })
    if (text.startsWith('-> ')) await fs.symlink(text.slice(3), file)
    else await fs.writeFile(file, text)
  }
  return root
}

export const LAPTOP = {
  'etc/machine-id': '3d1219c7c4c5404aaa1f6d2a48adfda4\n',
  'proc/1/cgroup': '0::/init.scope\n',
  'proc/sys/kernel/osrelease': '6.1.0-18-amd64\n',
  'proc/self/mountinfo':
    '22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n23 22 0:21 / /proc rw - proc proc rw\n',
  'sys/devices/pci0/nvme0/nvme0n1/device/serial': 'S4EWNX0M123456T   \n',
  'sys/devices/pci0/nvme0/nvme0n1/device/model': 'Samsung SSD 970 EVO\n',
  'sys/devices/pci0/nvme0/nvme0n1/nvme0n1p2/partition': '2\n',
  'sys/dev/block/259:2': '-> ../../devices/pci0/nvme0/nvme0n1/nvme0n1p2',
  'sys/devices/pci0/eth/vendor': '0x8086\n',
  'sys/class/net/eth0/address': 'a4:83:e7:01:23:45\n',
  'sys/class/net/eth0/device': '-> ../../../devices/pci0/eth',
  'sys/devices/pci0/usb1/1-2/vendor': 'x\n',
  'sys/class/net/usb0/address': '3c:7c:3f:00:00:01\n',
  'sys/class/net/usb0/device': '-> ../../../devices/pci0/usb1/1-2',
  'sys/class/net/lo/address': '00:00:00:00:00:00\n',
  'sys/class/net/docker0/address': '02:42:ac:11:00:02\n',
}

const folders = []
process.on('exit', () => folders.forEach((made) => rmSync(made, { recursive: true, force: true })))

/** A folder that goes with the process. */
export async function folder() {
  folders.push(await fs.mkdtemp(path.join(os.tmpdir(), 'keyledger-client-')))
  return folders.at(-1)
}

/** A client on a laptop of its own. `clock` can be moved. */
export async function clientOf(server, more = {}) {
  const clock = { now: NOW }
  const stateDir = more.stateDir ?? (await folder())
  const system = more.system ?? machine(await tree({ ...LAPTOP, ...more.files }))
  const made = { server: server.url ?? server, product: 'wave', publicKey: OURS.publicKey, deviceName: 'Laptop' }
  const { files, ...options } = more
  const client = new LicenseClient({ ...made, clock: () => clock.now, ...options, stateDir, system })
  return { client, clock, stateDir, system }
}

export const idOf = (key) => `lic_${sha256(key).slice(0, 20)}`
export const sha256 = (text) => createHash('sha256').update(text).digest('hex')
export const at = (moment) => new Date(moment).toISOString().replace(/\.\d+Z$/, 'Z')
