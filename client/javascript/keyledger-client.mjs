/**
 * Keyledger in your app: one file, to be copied into it. For Node 18 or newer and Electron's main process; it needs no package.
 *
 *     const client = new LicenseClient({ server: 'https://licenses.example.com', product: 'my-product',
 *                                        publicKey: '<base64>', stateDir })
 *     let result = await client.activate(key)     // what the customer typed
 *     result = await client.validate()            // at each start; offline, the last license file counts
 *
 * How to use it: README.md beside this file. How it works: ../PROTOCOL.md and ../HARDWARE_ID.md.
 */

import { execFile } from 'node:child_process'
import { createHash, randomBytes, webcrypto } from 'node:crypto'
import { promises as fs } from 'node:fs'
import * as os from 'node:os'
import * as path from 'node:path'

export const VERSION = '1.0.0'

const SECOND = 1000
const DAY = 86400 * SECOND
const CLOCK_MAY_DIFFER = 300 * SECOND
const MOST_BYTES = 1024 * 1024
const LONGEST_PAUSE = 3600 * SECOND
const ROUTE = '/api/v1/licenses/'

const REASONS = {
  VALID: 'is valid',
  UNLICENSED: 'No license key has been entered yet.',
  EXPIRED: 'The license file has ended, and the license server could not be reached.',
  CLOCK_BACK: "This computer's clock is behind. Please set it right, or connect to the internet once.",
  NOT_YET: "This computer's clock is behind. Please set it right, or connect to the internet once.",
  NO_CONNECTION: 'The license server could not be reached.',
  TIMED_OUT: 'The license server did not answer in time.',
  PAUSED: 'The license server asked to be left alone for a while.',
  NO_VERDICT: 'The license server could not answer.',
  UNSIGNED: 'Something else answered in the place of the license server.',
  UNREADABLE: 'This is no license file, or it is damaged.',
  UNKNOWN_FORMAT: 'This license file is for a newer version of the program.',
  UNKNOWN_KEY: 'It was signed with a key that this version of the program does not know.',
  BAD_SIGNATURE: 'It was not signed by the maker of this program, or it was changed.',
  OTHER_DEVICE: 'This license file is for another computer.',
  OTHER_PRODUCT: 'This license is for another product.',
  OTHER_LICENSE: 'This license file is for another license key.',
  NO_FILE: 'The license server could not be reached, and there is no license file.',
  OLD_FILE: 'This license file is older than the last word of the license server.',
  DEACTIVATED: 'The license was released from this computer.',
}

// ------------------------------------------------------------------------------------------------ signatures

/** Whether an Ed25519 signature fits (RFC 8032). Never throws: what cannot be read does not fit. */
export async function verifyEd25519(publicKey, message, signature) {
  try {
    const key = await webcrypto.subtle.importKey('raw', publicKey, 'Ed25519', false, ['verify'])
    return signature.length === 64 && (await webcrypto.subtle.verify('Ed25519', key, signature, message))
  } catch {
    return false
  }
}

const SIGNED_INPUT =
  /^sig1=(\("@status" "content-digest" "@method";req "@path";req\);created=([0-9]{1,15});keyid="([0-9a-f]{16})";alg="ed25519")$/
const SIGNATURE = /^sig1=:([A-Za-z0-9+/]{85}[AQgw]==):$/
const DIGEST = /^sha-256=:[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=:$/

/**
 * Whether an answer is our server's answer to this very request: PROTOCOL.md, "Is the answer to be believed?".
 * `headers` are pairs; `keys` maps key ids to the 32 bytes of the keys that the app was built with.
 */
export async function checkAnswer(request, answer, keys, now) {
  const no = (result) => ({ result })
  if (answer.status !== 200) return no('NO_VERDICT')
  const [digest, input, signature] = ['content-digest', 'signature-input', 'signature'].map((name) =>
    answer.headers
      .filter(([given]) => given.toLowerCase() === name)
      .map(([, value]) => value.trim())
      .join(', '),
  )
  if (!digest || !input || !signature) return no('UNSIGNED')
  const told = SIGNED_INPUT.exec(input)
  const signed = SIGNATURE.exec(signature)
  if (!told || !signed || !DIGEST.test(digest)) return no('UNREADABLE')
  const [, parameters, created, kid] = told
  const key = keys.get(kid)
  if (!key) return no('UNKNOWN_KEY')
  if (digest !== `sha-256=:${sha256(answer.body).toString('base64')}:`) return no('OTHER_BODY')
  const base =
    `"@status": 200\n"content-digest": ${digest}\n"@method";req: ${request.method}\n"@path";req: ${request.path}\n` +
    `"@signature-params": ${parameters}`
  const fits = await verifyEd25519(key, Buffer.from(base), Buffer.from(signed[1], 'base64'))
  if (!fits) return no('BAD_SIGNATURE')
  const verdict = verdictIn(answer.body)
  if (!verdict) return no('UNREADABLE')
  const problem = aboutAnother(request, verdict)
  if (problem) return no(problem)
  const at = Number(created) * SECOND
  return { result: 'BELIEVED', verdict, at, clockOff: Math.abs(at - now) > CLOCK_MAY_DIFFER }
}

function verdictIn(body) {
  const said = jsonIn(body)
  if (!isObject(said) || typeof said.valid !== 'boolean' || typeof said.code !== 'string') return null
  if (said.valid !== (said.code === 'VALID')) return null
  const license = said.license
  const isLicense = isObject(license) && typeof license.id === 'string' && isTexts(license.features)
  return isLicense || (license === null && !said.valid) ? said : null
}

/** The request is not signed: who sits in between could have put another key, device or product into it. */
function aboutAnother(request, verdict) {
  if (verdict.nonce !== request.nonce) return 'OTHER_REQUEST'
  if (verdict.license && !licenseIds(request.license_key, request.key_prefix).includes(verdict.license.id))
    return 'OTHER_LICENSE'
  if (!verdict.valid) return null
  const frees = request.path.endsWith('/deactivate')
  const device = verdict.device?.hardware_id
  if (request.hardware_id && !frees && !(typeof device === 'string' && sameMachine(device, request.hardware_id)))
    return 'OTHER_DEVICE'
  return request.product && verdict.license.product_id !== request.product ? 'OTHER_PRODUCT' : null
}

// ------------------------------------------------------------------------------------------------ license files

const FILE = /-----BEGIN LICENSE FILE-----([A-Za-z0-9+/=> \t\r\n]*)-----END LICENSE FILE-----/g
const TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/

/**
 * Whether a license file is good here and now: PROTOCOL.md, "License files". `result` is GOOD or names what is not, `says`
 * is what stands in a file that is signed well. `here`: product, hardwareId, licenseKey (null: the file alone is judged), keyPrefix.
 */
export async function checkLicenseFile(text, keys, here, now) {
  const found = [...String(text).matchAll(FILE)]
  const inside = found.length === 1 ? jsonIn(fromBase64(found[0][1].replace(/[> \t\r\n]/g, ''))) : null
  if (!isObject(inside) || inside.alg !== 'ed25519') return { result: 'UNREADABLE' }
  const [signature, said] = [fromBase64(inside.sig), fromBase64(inside.enc)]
  const says = jsonIn(said)
  if (signature?.length !== 64 || !isObject(says)) return { result: 'UNREADABLE' }
  if (says.format !== 1) return { result: 'UNKNOWN_FORMAT' }
  const key = keys.get(says.kid)
  if (!key) return { result: 'UNKNOWN_KEY' }
  if (!(await verifyEd25519(key, Buffer.from(`license/${inside.enc}`), signature))) return { result: 'BAD_SIGNATURE' }
  if (!isWhole(says)) return { result: 'UNREADABLE' }
  return { result: judged(says, here, now), says }
}

function isWhole(says) {
  const { license, product, features, hardware_id: device, issued, expires } = says
  return (
    isObject(license) &&
    typeof license.id === 'string' &&
    typeof license.key_sha256 === 'string' &&
    isObject(product) &&
    isTexts(features) &&
    (device === null || typeof device === 'string') &&
    isTime(issued) &&
    (expires === null || isTime(expires))
  )
}

function judged(says, here, now) {
  if (says.product.id !== here.product) return 'OTHER_PRODUCT'
  if (says.hardware_id !== null && !sameMachine(says.hardware_id, here.hardwareId)) return 'OTHER_DEVICE'
  if (here.licenseKey && !isFileOf(says, here.licenseKey, here.keyPrefix)) return 'OTHER_LICENSE'
  if (says.expires === null) return 'GOOD'
  if (now < Date.parse(says.issued) - DAY) return 'NOT_YET'
  return now >= Date.parse(says.expires) ? 'EXPIRED' : 'GOOD'
}

function isFileOf(says, licenseKey, keyPrefix) {
  return readings(licenseKey, keyPrefix).some((key) => sha256(key).toString('hex') === says.license.key_sha256)
}

// ------------------------------------------------------------------------------------------------ keys and codes

const SYMBOLS = 30
const FORGIVEN = { O: '0', I: '1', L: '1' }

/** The ids that the license of a typed key may have: the key as it stands, and as the server writes it. */
export function licenseIds(typed, keyPrefix = null) {
  return readings(typed, keyPrefix).map((key) => `lic_${sha256(key).toString('hex').slice(0, 20)}`)
}

function readings(typed, keyPrefix) {
  const text = typed.trim()
  const plain = plainKey(text)
  const [head, body] = [plain.slice(0, -SYMBOLS), plain.slice(-SYMBOLS)]
  if (!/^[0-9A-HJKMNP-TV-Z]{30}$/.test(body)) return [text]
  const grouped = body.match(/.{6}/g).join('-')
  const found = [text]
  if (!head) found.push(grouped)
  if (keyPrefix && ['', plainKey(keyPrefix)].includes(head)) found.push(`${keyPrefix}-${grouped}`)
  return [...new Set(found)]
}

function plainKey(text) {
  return text
    .toUpperCase()
    .replace(/[ \t\u2010-\u2014-]/g, '')
    .replace(/[OIL]/g, (symbol) => FORGIVEN[symbol])
}

/** What a computer without a network shows, so that its license file can be made on the seller's pages. */
export function makeDeviceCode(hardwareId, deviceName = '', product = '') {
  const check = sha256(`device/${hardwareId}\0${deviceName}\0${product}`).toString('hex').slice(0, 8)
  const said = JSON.stringify({ format: 1, hardware_id: hardwareId, device_name: deviceName, product, check })
  const lines = Buffer.from(said)
    .toString('base64')
    .match(/.{1,64}/g)
  return ['-----BEGIN DEVICE CODE-----', ...lines, '-----END DEVICE CODE-----', ''].join('\n')
}

// ------------------------------------------------------------------------------------------------ the hardware id

const JUNK = new Set(
  `tobefilledbyoem tobefilledbyoemtobefilledbyoem defaultstring systemserialnumber systemproductname serialnumber
   baseboardserialnumber chassisserialnumber notspecified notapplicable notavailable notprovided notset noserial
   uninitialized unknown invalid default oemoem empty 123456 1234567 12345678 123456789 1234567890 0123456789
   123456789abcdef 0123456789abcdef 1234567890abcdef 123456789abcdef0 03000200040005000006000700080009
   00020003000400050006000700080009 12345678123456789012345678901234 1234567812345678123456789abcdef0
   12345678123456781234567890abcdef 123456781234567890abcddeefaabbcc 11111111222233334444555555555555
   00010203040506070809 000102030405060708090a0b0c0d0e0f`.split(/\s+/),
)
const JUNK_DISKS = ['qm0000', 'drivescsi', 'driveide', 'drivesata', 'drivevirtio', 'persistentdisk', 'virtual']
const JUNK_CARDS = new Set(
  '001122334455 00e04c000001 00e04c680001 00e04c360000 00e04c534458 888888888788 123456789abc'.split(' '),
)

/** The id of these parts of a computer; null where nothing is left of them. Its rules: HARDWARE_ID.md. */
export function makeHardwareId(
  product,
  { machineId = null, board = null, disk = null, cards = [], installation = null } = {},
) {
  const part = (letter, value) => letter + sha256(`kl1\n${product}\n${letter}\n${value}`).toString('hex').slice(0, 16)
  const named = [
    ['m', plainPart(machineId)],
    ['b', plainPart(board)],
    ['d', plainPart(disk, JUNK_DISKS)],
  ]
  const found = named.filter(([, value]) => value).map(([letter, value]) => part(letter, value))
  const addresses = [...new Set(cards.map(cardAddress).filter(Boolean))].sort().slice(0, 4)
  found.push(...addresses.map((address) => part('n', address)).sort())
  if (!found.length && installation) found.push(part('x', installation))
  return found.length ? ['kl1', ...found].join('.') : null
}

/** Two parts in common, one of them a disk or a network card: images and factories copy the other two. */
export function sameMachine(one, other) {
  if (one === other || !one.startsWith('kl1.') || !other.startsWith('kl1.')) return one === other
  const others = new Set(other.split('.'))
  const common = [...new Set(one.split('.'))].filter(
    (part) => others.has(part) && part.length === 17 && 'mbdn'.includes(part[0]),
  )
  return common.length >= 2 && common.some((part) => 'dn'.includes(part[0]))
}

function plainPart(value, junkStarts = []) {
  const text = (value ?? '').toLowerCase().replace(/[^a-z0-9]/g, '')
  const isJunk =
    text.length < 6 || new Set(text).size < 3 || JUNK.has(text) || junkStarts.some((start) => text.startsWith(start))
  return isJunk ? null : text
}

function cardAddress(card) {
  const text = card.toLowerCase().replace(/[-:. ]/g, '')
  if (!/^[0-9a-f]{12}$/.test(text) || new Set(text).size < 3 || JUNK_CARDS.has(text)) return null
  const first = parseInt(text.slice(0, 2), 16)
  const isMadeUp = first & 2 && !text.startsWith('525400')
  return first & 1 || isMadeUp ? null : text
}

// ------------------------------------------------------------------------------------------------ reading a computer

const READING_TAKES = 5 * SECOND
const VIRTUAL_DISK = /^(vd|xvd|loop|zram|ram|nbd)/
const VIRTUAL_MODEL = /qemu|vbox|vmware|virtual|amazon elastic block store/i
const CONTAINER = /docker|containerd|kubepods|libpod|lxc/

/** What a system is asked. Tests put another one in its place. */
export const thisSystem = {
  platform: process.platform,
  root: '/',
  env: process.env,
  run: (file, args) =>
    new Promise((resolve, reject) => {
      const bounds = { timeout: READING_TAKES, maxBuffer: MOST_BYTES, windowsHide: true, encoding: 'utf8' }
      execFile(file, args, bounds, (error, stdout) => (error ? reject(error) : resolve(stdout)))
    }),
}

/**
 * The parts of this computer, as they stand. `failed` names those that could not be asked for this time, which is not the same as
 * not being there: a program that was too slow once must not make another computer of this one.
 */
export async function readMachine(system = thisSystem) {
  const reader = { win32: readWindows, darwin: readMac, linux: readLinux }[system.platform]
  return reader ? reader(system) : { failed: [] }
}

async function readWindows(system) {
  const folder = `${system.env.SystemRoot ?? 'C:\\Windows'}\\System32`
  const value = async (key, name) => {
    const told = await system.run(`${folder}\\reg.exe`, ['query', key, '/v', name, '/reg:64'])
    return new RegExp(`^\\s*${name}\\s+REG_SZ\\s+(\\S+)\\s*$`, 'mi').exec(told)?.[1] ?? null
  }
  const asked = {
    machineId: () => value('HKLM\\SOFTWARE\\Microsoft\\Cryptography', 'MachineGuid'),
    board: () => value('HKLM\\SYSTEM\\HardwareConfig', 'LastConfig'),
    devices: () =>
      system.run(`${folder}\\WindowsPowerShell\\v1.0\\powershell.exe`, [
        '-NoProfile',
        '-NonInteractive',
        '-Command',
        WINDOWS_DEVICES,
      ]),
  }
  const { devices, failed, ...parts } = await allOf(asked)
  if (failed.includes('devices'))
    return { ...parts, failed: [...failed.filter((name) => name !== 'devices'), 'disk', 'cards'] }
  const lines = [...(devices ?? '').matchAll(/^(disk|model|card)=(.*?)\s*$/gm)].map(([, name, told]) => [name, told])
  const of = (name) => lines.filter(([given]) => given === name).map(([, told]) => told)
  const disk = VIRTUAL_MODEL.test(of('model')[0] ?? '') ? null : (of('disk')[0] ?? null)
  return { ...parts, disk, cards: of('card'), failed }
}

const WINDOWS_DEVICES = `
$ErrorActionPreference = 'SilentlyContinue'
$disk = Get-CimInstance -Namespace root/Microsoft/Windows/Storage -ClassName MSFT_Disk -Filter 'IsBoot = TRUE' | Select-Object -First 1
'disk=' + $disk.SerialNumber
'model=' + $disk.Model
Get-CimInstance Win32_NetworkAdapter | Where-Object { $_.PNPDeviceID -like 'PCI\\*' -and $_.MACAddress } | ForEach-Object { 'card=' + $_.MACAddress }
`

async function readMac(system) {
  const asked = {
    board: () => system.run('/usr/sbin/ioreg', ['-rd1', '-c', 'IOPlatformExpertDevice']),
    cards: () => system.run('/usr/sbin/networksetup', ['-listallhardwareports']),
  }
  const told = await allOf(asked)
  const value = (name) => new RegExp(`"${name}" = "([^"]*)"`).exec(told.board ?? '')?.[1] ?? null
  const failed = told.failed.flatMap((name) => (name === 'board' ? ['machineId', 'board'] : [name]))
  const ports = (told.cards ?? '')
    .split(/\n\s*\n/)
    .filter((port) => !/Hardware Port:.*(usb|bluetooth|thunderbolt|bridge)/i.test(port))
  const cards = ports.map((port) => /Ethernet Address: ([0-9a-f:]{17})/i.exec(port)?.[1]).filter(Boolean)
  return { machineId: value('IOPlatformUUID'), board: value('IOPlatformSerialNumber'), disk: null, cards, failed }
}

async function readLinux(system) {
  const at = (...names) => path.join(system.root, ...names)
  const text = async (...names) =>
    (await fs.readFile(at(...names), 'utf8').catch(() => '')).replace(/\0/g, '').trim() || null
  if (await isContainer(system, at, text)) return { failed: [] }
  const machineId = (await text('etc/machine-id')) ?? (await text('var/lib/dbus/machine-id'))
  if (/microsoft/i.test((await text('proc/sys/kernel/osrelease')) ?? '')) return { machineId, failed: [] } // WSL: a new card each time
  const board = (await text('sys/class/dmi/id/product_uuid')) ?? (await text('proc/device-tree/serial-number'))
  return { machineId, board, disk: await linuxDisk(at, text), cards: await linuxCards(at, text), failed: [] }
}

async function isContainer(system, at, text) {
  const isThere = (...names) =>
    fs.access(at(...names)).then(
      () => true,
      () => false,
    )
  if (system.env.container || (await isThere('.dockerenv')) || (await isThere('run/.containerenv'))) return true
  return CONTAINER.test((await text('proc/1/cgroup')) ?? '')
}

/** The serial number of the disk under `/`: through partitions, encryption and volumes down to the disk itself. */
async function linuxDisk(at, text) {
  let block = await rootBlock(at, text)
  for (let depth = 0; block && depth < 8; depth++) {
    const below = (await fs.readdir(path.join(block, 'slaves')).catch(() => [])).sort()
    const isPartition = await fs.access(path.join(block, 'partition')).then(
      () => true,
      () => false,
    )
    if (isPartition) block = path.dirname(block)
    else if (below.length) block = await fs.realpath(path.join(block, 'slaves', below[0])).catch(() => null)
    else break
  }
  if (!block || VIRTUAL_DISK.test(path.basename(block))) return null
  const told = async (name) =>
    (await fs.readFile(path.join(block, 'device', name), 'utf8').catch(() => '')).trim() || null
  if (VIRTUAL_MODEL.test((await told('model')) ?? '')) return null
  return (await told('serial')) ?? (await told('wwid')) ?? (await told('cid'))
}

/** Btrfs and others mount under a number that is no disk's: then the name of the device is what counts. */
async function rootBlock(at, text) {
  const mounts = ((await text('proc/self/mountinfo')) ?? '').split('\n').map((line) => line.split(' '))
  const root = mounts.filter((fields) => fields[4] === '/').pop()
  if (!root) return null
  const source = root[root.indexOf('-') + 2] ?? ''
  const byName = async () => {
    const device = await fs.realpath(at(source)).catch(() => null)
    return device && fs.realpath(at('sys/class/block', path.basename(device))).catch(() => null)
  }
  return (
    (await fs.realpath(at('sys/dev/block', root[2])).catch(() => null)) ??
    (source.startsWith('/dev/') ? byName() : null)
  )
}

async function linuxCards(at, text) {
  const cards = []
  for (const name of (await fs.readdir(at('sys/class/net')).catch(() => [])).sort()) {
    const device = await fs.realpath(at('sys/class/net', name, 'device')).catch(() => null)
    if (!device || /\/usb\d/.test(device)) continue
    const address =
      (await text('sys/class/net', name, 'phy80211/macaddress')) ?? (await text('sys/class/net', name, 'address'))
    if (address) cards.push(address)
  }
  return cards
}

/** Each answer by its name, null and named in `failed` where there was none. */
async function allOf(asked) {
  const names = Object.keys(asked)
  const told = await Promise.allSettled(names.map((name) => asked[name]()))
  const values = names.map((name, place) => [name, told[place].status === 'fulfilled' ? told[place].value : null])
  return { ...Object.fromEntries(values), failed: names.filter((_, place) => told[place].status === 'rejected') }
}

// ------------------------------------------------------------------------------------------------ what is kept

const LOCK_IS_STALE = 10 * SECOND
const LOCK_PATIENCE = 3 * SECOND

/** One small file, always whole, and a second copy of it for the day on which a disk or a cleaner spoils the first. */
class Shelf {
  constructor(folder) {
    this.folder = folder
    this.file = path.join(folder, 'license.json')
    this.copy = path.join(folder, 'license.backup.json')
    this.lock = path.join(folder, 'license.lock')
  }

  async read() {
    return (await stateIn(this.file)) ?? (await stateIn(this.copy)) ?? { format: 1 }
  }

  /** Read, changed and written while other processes wait. A folder that cannot be written to takes no license away. */
  async change(change) {
    const isOurs = await this.#takeLock()
    try {
      const state = await this.read()
      const next = { ...state, ...change(state) }
      if (JSON.stringify(next) !== JSON.stringify(state)) await this.#write(JSON.stringify(next, null, 1))
      return next
    } finally {
      if (isOurs) await fs.unlink(this.lock).catch(() => {})
    }
  }

  async #write(text) {
    try {
      await replace(this.file, text)
      await replace(this.copy, text)
    } catch {
      // the answer counts all the same; without a kept file there are no days offline
    }
  }

  async #takeLock() {
    await fs.mkdir(this.folder, { recursive: true, mode: 0o700 }).catch(() => {})
    const end = performance.now() + LOCK_PATIENCE
    do {
      try {
        await (await fs.open(this.lock, 'wx', 0o600)).close()
        return true
      } catch (error) {
        if (!['EEXIST', 'EPERM', 'EBUSY'].includes(error.code)) return false
        const made = await fs.stat(this.lock).catch(() => null)
        if (made && Math.abs(Date.now() - made.mtimeMs) > LOCK_IS_STALE) await fs.unlink(this.lock).catch(() => {})
        else await pause(20)
      }
    } while (performance.now() < end)
    return false // who holds it that long is gone, or hangs: each file is whole at any moment, whoever writes last
  }
}

async function stateIn(file) {
  const state = jsonIn(await fs.readFile(file).catch(() => null))
  return isObject(state) && state.format === 1 ? state : null
}

async function replace(file, text) {
  const fresh = `${file}.${process.pid}.${randomBytes(4).toString('hex')}`
  try {
    const handle = await fs.open(fresh, 'wx', 0o600)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await renameOver(fresh, file)
  } catch (error) {
    await fs.unlink(fresh).catch(() => {})
    throw error
  }
  await syncFolder(path.dirname(file))
}

/** On Windows a scanner that has the old file open for a moment is no reason to give up. */
async function renameOver(fresh, file) {
  for (let tries = 1; ; tries++) {
    try {
      return await fs.rename(fresh, file)
    } catch (error) {
      if (tries === 5 || !['EPERM', 'EACCES', 'EBUSY'].includes(error.code)) throw error
      await pause(50 * tries)
    }
  }
}

async function syncFolder(folder) {
  const handle = await fs.open(folder, 'r').catch(() => null) // Windows opens no folders
  await handle?.sync().catch(() => {})
  await handle?.close().catch(() => {})
}

// ------------------------------------------------------------------------------------------------ the client

const ATTEMPTS = 3

export class LicenseClient {
  #base
  #product
  #keys
  #shelf
  #deviceName
  #keyPrefix
  #timeout
  #clock
  #system
  #turn = Promise.resolve()
  #pausedUntil = 0
  #machine = null

  /** Throws a TypeError that names the option that makes no sense. */
  constructor({
    server,
    product,
    publicKey,
    stateDir,
    deviceName = os.hostname(),
    keyPrefix = null,
    timeout = 10 * SECOND,
    clock = Date.now,
    system = thisSystem,
  }) {
    this.#base = serverBase(server)
    this.#product = requireText('product', product)
    this.#keys = keyTable(publicKey)
    this.#shelf = new Shelf(requireText('stateDir', stateDir))
    this.#deviceName = String(deviceName)
      .replace(/[\x00-\x1f\x7f]/g, '')
      .slice(0, 128)
    this.#keyPrefix = keyPrefix
    this.#timeout = requireDuration('timeout', timeout)
    this.#clock = clock
    this.#system = system
  }

  /** Where customers see their licenses, release a computer and get a license file. */
  get portalUrl() {
    return `${this.#base}/portal`
  }

  /** Take a seat for this computer, and a license file for the days offline. */
  activate(licenseKey) {
    return this.#inTurn(() => this.#activate(licenseKey))
  }

  /** Ask the server; where it cannot be reached, the last license file counts. To be called at each start. */
  validate() {
    return this.#inTurn(() => this.#validate())
  }

  /** Give this computer's seat back, and forget the key. */
  deactivate() {
    return this.#inTurn(() => this.#deactivate())
  }

  /** What is known without asking anybody. */
  status() {
    return this.#inTurn(async () => this.#offline(await this.#look()))
  }

  /** The text with which a customer gets a license file for this computer, on another one. */
  deviceCode() {
    return this.#inTurn(async () => makeDeviceCode((await this.#look()).hardwareId, this.#deviceName, this.#product))
  }

  /** Use a license file that the customer brought: its text. */
  installFile(text) {
    return this.#inTurn(() => this.#installFile(text))
  }

  // -------------------------------------------------------------------------------------------- the verbs

  async #activate(typed) {
    const licenseKey = String(typed ?? '').trim()
    if (!/^[^\x00-\x1f\x7f]{1,128}$/.test(licenseKey))
      return noVerdict('NOT_A_KEY', 'Please enter the license key from your e-mail.')
    const seen = await this.#look()
    const answer = await this.#ask('file', licenseKey, seen.hardwareId, { device_name: this.#deviceName })
    if (!answer.verdict) return noVerdict(answer.code, answer.detail, answer.retryAfter)
    if (answer.verdict.valid) return this.#accept(licenseKey, answer, seen)
    const ids = licenseIds(licenseKey, this.#keyPrefix)
    const isKept = licenseIds(seen.state.license_key ?? '', this.#keyPrefix).some((id) => ids.includes(id))
    if (isKept) await this.#deny(answer) // another key that is refused takes nothing away
    return online(answer)
  }

  async #validate() {
    const seen = await this.#look()
    const licenseKey = seen.state.license_key
    if (!licenseKey) return this.#offline(seen)
    if (performance.now() < this.#pausedUntil)
      return this.#offline(seen, { code: 'PAUSED', retryAfter: this.#pauseLeft() })
    const answer = await this.#ask('validate', licenseKey, seen.hardwareId, { bind: false })
    if (!answer.verdict) return this.#offline(await this.#missed(seen), answer)
    if (!answer.verdict.valid) {
      await this.#deny(answer)
      return online(answer)
    }
    return this.#accept(licenseKey, await this.#withFile(licenseKey, answer, seen), seen)
  }

  async #deactivate() {
    const seen = await this.#look()
    const licenseKey = seen.state.license_key
    if (!licenseKey) {
      await this.#shelf.change(() => ({ ...FORGOTTEN }))
      return noVerdict('UNLICENSED')
    }
    const answer = await this.#ask('deactivate', licenseKey, seen.hardwareId)
    if (!answer.verdict) return this.#offline(seen, answer)
    await this.#shelf.change(() => ({ ...FORGOTTEN, seen: answer.at }))
    return {
      ...online(answer),
      valid: false,
      state: 'unlicensed',
      code: 'DEACTIVATED',
      detail: REASONS.DEACTIVATED,
      until: null,
    }
  }

  async #installFile(text) {
    const seen = await this.#look()
    const now = this.#clock()
    const here = { product: this.#product, hardwareId: seen.hardwareId, licenseKey: null }
    const { result, says } = await checkLicenseFile(text, this.#keys, here, now)
    if (result !== 'GOOD') return noVerdict(result)
    const denied = seen.state.denied
    if (denied && denied.license_id === says.license.id && Date.parse(says.issued) <= denied.at)
      return noVerdict('OLD_FILE')
    const isOfKey = seen.state.license_key && isFileOf(says, seen.state.license_key, this.#keyPrefix)
    const state = await this.#shelf.change(() => ({
      license_key: isOfKey ? seen.state.license_key : null,
      bound_id: seen.hardwareId,
      last_id: seen.present,
      file: String(text),
      denied: null,
      missed_since: null,
      seen: Math.max(now, Date.parse(says.issued)),
    }))
    return this.#offline({ ...seen, state })
  }

  // -------------------------------------------------------------------------------------------- what follows

  async #accept(licenseKey, answer, seen) {
    const { verdict } = answer
    const file = await this.#fileIn(verdict, licenseKey, seen)
    const state = await this.#shelf.change((kept) => ({
      license_key: licenseKey,
      bound_id: verdict.device.hardware_id,
      last_id: seen.present,
      file: file ?? (kept.license_key === licenseKey ? (kept.file ?? null) : null),
      denied: null,
      missed_since: null,
      seen: answer.at,
    }))
    const kept = await this.#fileAt({ ...seen, state }, answer.at)
    return { ...online(answer), until: kept.result === 'GOOD' ? kept.says.expires : null }
  }

  /** A file of today is as good as one of this minute; an older one is renewed, so that all its days lie ahead. */
  async #withFile(licenseKey, answer, seen) {
    const kept = await this.#fileAt(seen, answer.at)
    if (kept.result === 'GOOD' && (kept.says.expires === null || answer.at - Date.parse(kept.says.issued) < DAY))
      return answer
    const more = await this.#ask('file', licenseKey, seen.hardwareId, { device_name: this.#deviceName })
    return more.verdict?.valid ? more : answer
  }

  async #fileIn(verdict, licenseKey, seen) {
    if (typeof verdict.license_file !== 'string') return null
    const here = { product: this.#product, hardwareId: seen.hardwareId, licenseKey, keyPrefix: this.#keyPrefix }
    const { result } = await checkLicenseFile(verdict.license_file, this.#keys, here, Date.parse(verdict.issued))
    return result === 'GOOD' ? verdict.license_file : null
  }

  async #fileAt({ state, hardwareId }, now) {
    const here = { product: this.#product, hardwareId, licenseKey: state.license_key, keyPrefix: this.#keyPrefix }
    return state.file ? checkLicenseFile(state.file, this.#keys, here, now) : { result: 'NO_FILE' }
  }

  #deny({ verdict, at }) {
    const denied = { code: verdict.code, detail: verdict.detail ?? '', at, license_id: verdict.license?.id ?? null }
    return this.#shelf.change(() => ({ denied, missed_since: null, seen: at }))
  }

  async #missed(seen) {
    const state = await this.#shelf.change((kept) => ({ missed_since: kept.missed_since ?? this.#clock() }))
    return { ...seen, state }
  }

  /** The verdict of what is kept. `missed` says why the server was not heard, if it was asked. */
  async #offline(seen, missed = {}) {
    const { state } = seen
    const retryAfter = missed.retryAfter ?? null
    if (state.denied) return { ...noVerdict(state.denied.code, state.denied.detail, retryAfter), state: 'denied' }
    if (!state.file)
      return state.license_key
        ? noVerdict(missed.code ?? 'NO_FILE', missed.detail, retryAfter)
        : noVerdict('UNLICENSED')
    const now = this.#clock()
    const { result, says } = await this.#fileAt(seen, Math.max(now, state.seen ?? 0))
    const isForEver = says?.expires === null
    const isBack = !isForEver && now < (state.seen ?? 0) - DAY
    if (result !== 'GOOD' || isBack) return noVerdict(result === 'GOOD' ? 'CLOCK_BACK' : result, undefined, retryAfter)
    await this.#shelf.change((kept) => (now > (kept.seen ?? 0) ? { seen: now } : {}))
    return filed(says, state.missed_since ? 'grace' : 'valid', missed, retryAfter)
  }

  // -------------------------------------------------------------------------------------------- this computer

  /** What is kept, and which computer this is: the one that was bound, if it still has enough of its parts. */
  async #look() {
    let state = await this.#shelf.read()
    this.#machine ??= await readMachine(this.#system)
    let present = makeHardwareId(this.#product, { ...this.#machine, installation: state.installation })
    if (!present) {
      state = await this.#shelf.change((kept) => ({
        installation: kept.installation ?? randomBytes(16).toString('base64url'),
      }))
      present = makeHardwareId(this.#product, { installation: state.installation })
    }
    present = withMissing(present, this.#machine.failed, state.last_id ?? state.bound_id)
    const isBound = [state.bound_id, state.last_id].some((id) => id && sameMachine(id, present))
    return { state, present, hardwareId: isBound ? (state.bound_id ?? present) : present }
  }

  #inTurn(work) {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => {})
    return done
  }

  // -------------------------------------------------------------------------------------------- the server

  #pauseLeft() {
    return Math.ceil((this.#pausedUntil - performance.now()) / SECOND)
  }

  /** A verdict with `at`, the server's time; or why there is none. What is lost is tried again, within one time limit. */
  async #ask(verb, licenseKey, hardwareId, more = {}) {
    const end = performance.now() + this.#timeout
    for (let attempt = 1; ; attempt++) {
      const answer = await this.#askOnce(verb, licenseKey, hardwareId, more, end)
      if (answer.verdict || !answer.again) return answer
      const wait = (answer.retryAfter ?? 2 ** (attempt - 2) * (0.5 + Math.random())) * SECOND
      if (attempt === ATTEMPTS || performance.now() + wait >= end) {
        if (answer.retryAfter) this.#pausedUntil = performance.now() + answer.retryAfter * SECOND
        return answer
      }
      await pause(wait)
    }
  }

  async #askOnce(verb, licenseKey, hardwareId, more, end) {
    const url = new URL(`${this.#base}${ROUTE}${verb}`)
    const asked = { license_key: licenseKey, hardware_id: hardwareId, nonce: randomBytes(16).toString('base64url') }
    const product = verb === 'deactivate' ? {} : { product: this.#product }
    let answer
    try {
      answer = await send(url, { ...asked, ...product, ...more }, Math.max(1, end - performance.now()))
    } catch (error) {
      const isLate = error.name === 'TimeoutError' || error.name === 'AbortError'
      return {
        code: isLate ? 'TIMED_OUT' : 'NO_CONNECTION',
        again: true,
        detail: error.cause?.code && `${REASONS.NO_CONNECTION} (${error.cause.code})`,
      }
    }
    const request = { method: 'POST', path: url.pathname, key_prefix: this.#keyPrefix, ...asked, ...product }
    const checked = await checkAnswer(request, answer, this.#keys, this.#clock())
    if (checked.result === 'BELIEVED') return checked
    if (checked.result !== 'NO_VERDICT') return { code: checked.result, detail: REASONS.UNSIGNED, again: false }
    return refusal(answer)
  }
}

const FORGOTTEN = { license_key: null, bound_id: null, file: null, denied: null, missed_since: null }

async function send(url, body, milliseconds) {
  const response = await fetch(url, {
    method: 'POST',
    headers: {
      'Content-Type': 'application/json',
      Accept: 'application/json',
      'Accept-Encoding': 'identity',
      'User-Agent': `keyledger-client-js/${VERSION}`,
    },
    body: JSON.stringify(body),
    redirect: 'manual', // a sign-in page of somebody's network is no answer
    signal: AbortSignal.timeout(milliseconds),
  })
  const pieces = []
  let size = 0
  for await (const piece of response.body ?? []) {
    size += piece.length
    if (size > MOST_BYTES) return { status: 0, headers: [], body: Buffer.alloc(0) } // leaving the loop ends the transfer
    pieces.push(piece)
  }
  return { status: response.status, headers: [...response.headers], body: Buffer.concat(pieces) }
}

/** What is no verdict says nothing about the license. 429 and 5xx pass by; another error is one of the app, or of what answered. */
function refusal({ status, headers, body }) {
  const again = status === 429 || status >= 500
  const after = again ? pauseOf(headers.find(([name]) => name.toLowerCase() === 'retry-after')?.[1]) : null
  const error = jsonIn(body)?.errors?.[0]
  const said = typeof error?.detail === 'string' ? `: ${error.detail.slice(0, 200)}` : ''
  return { code: 'NO_VERDICT', detail: `${REASONS.NO_VERDICT} (${status}${said})`, again, retryAfter: after }
}

/** Seconds, or a date; nobody signed it, so it is believed for an hour at most. */
function pauseOf(told) {
  if (!told) return null
  const seconds = /^\d+$/.test(told.trim()) ? Number(told) : (Date.parse(told) - Date.now()) / SECOND
  return Number.isFinite(seconds) ? Math.min(Math.max(0, Math.ceil(seconds)), LONGEST_PAUSE / SECOND) : null
}

// ------------------------------------------------------------------------------------------------ results

function noVerdict(code, detail, retryAfter = null) {
  return {
    valid: false,
    state: code === 'UNLICENSED' ? 'unlicensed' : 'unreachable',
    code,
    detail: detail || (REASONS[code] ?? code),
    license: null,
    features: [],
    device: null,
    activated: false,
    until: null,
    clockOff: code === 'CLOCK_BACK' || code === 'NOT_YET',
    retryAfter,
  }
}

function online({ verdict, clockOff }) {
  return {
    ...noVerdict(verdict.code, verdict.detail),
    valid: verdict.valid,
    state: verdict.valid ? 'valid' : 'denied',
    license: verdict.license,
    features: verdict.license?.features ?? [],
    device: verdict.device ?? null,
    activated: verdict.activated === true,
    clockOff,
  }
}

function filed(says, state, missed, retryAfter) {
  const { id, purchase_date, expiry_date, max_devices } = says.license
  const { tier, features } = says
  const product = { product_id: says.product.id, product_name: says.product.name }
  return {
    ...noVerdict('VALID', REASONS.VALID, retryAfter),
    valid: true,
    state,
    ...(missed.code ? { detail: missed.detail || REASONS[missed.code] } : {}),
    license: {
      id,
      ...product,
      tier,
      features,
      purchase_date,
      expiry_date,
      status: 'active',
      max_devices,
      devices_used: null,
    },
    features,
    device:
      says.hardware_id === null
        ? null
        : { hardware_id: says.hardware_id, device_name: says.device_name, bound_at: null },
    until: says.expires,
  }
}

// ------------------------------------------------------------------------------------------------ small things

/** With the parts that could not be asked for this time as they were, if any other shows that it is the same computer. */
function withMissing(present, failed, known) {
  const letters = failed.map((name) => ({ machineId: 'm', board: 'b', disk: 'd', cards: 'n' })[name])
  const [have, had] = [present.split('.').slice(1), (known ?? '').split('.').slice(1)]
  if (!letters.length || !had.some((part) => have.includes(part))) return present
  const kept = had.filter((part) => letters.includes(part[0]))
  const order = (part) => 'mbdnx'.indexOf(part[0])
  return ['kl1', ...[...new Set([...have, ...kept])].sort((a, b) => order(a) - order(b) || (a < b ? -1 : 1))].join('.')
}

function serverBase(server) {
  let url
  try {
    url = new URL(server)
  } catch {
    throw new TypeError('server: is not an address, as https://licenses.example.com')
  }
  const isLoopback = ['127.0.0.1', '[::1]', 'localhost'].includes(url.hostname)
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && isLoopback))
    throw new TypeError('server: must begin with https://')
  if (url.username || url.search || url.hash) throw new TypeError('server: has a name, a query or a mark in it')
  return url.href.replace(/\/+$/, '')
}

function keyTable(given) {
  const keys = [given ?? []].flat()
  if (!keys.length) throw new TypeError('publicKey: is missing')
  return new Map(keys.map(publicKeyOf).map((key) => [sha256(key).toString('hex').slice(0, 16), key]))
}

const SPKI = Buffer.from('302a300506032b6570032100', 'hex') // what stands before the 32 bytes in a PEM

function publicKeyOf(text) {
  const raw = fromBase64(String(text).replace(/-----[A-Z ]+-----|\s/g, ''))
  if (raw?.length === 32) return raw
  if (raw?.length === 44 && raw.subarray(0, 12).equals(SPKI)) return raw.subarray(12)
  throw new TypeError('publicKey: is not the base64 or the PEM of an Ed25519 key')
}

function requireText(name, value) {
  if (typeof value !== 'string' || !value) throw new TypeError(`${name}: is missing`)
  return value
}

function requireDuration(name, value) {
  if (!Number.isFinite(value) || value <= 0) throw new TypeError(`${name}: must be milliseconds`)
  return value
}

function sha256(data) {
  return createHash('sha256').update(data).digest()
}

/** Null for what is not base64 exactly as it is written: with its padding, and no loose bits. */
function fromBase64(text) {
  if (typeof text !== 'string') return null
  const raw = Buffer.from(text, 'base64')
  return text && raw.toString('base64') === text ? raw : null
}

function jsonIn(bytes) {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    return null
  }
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isTexts(value) {
  return Array.isArray(value) && value.every((text) => typeof text === 'string')
}

function isTime(value) {
  return typeof value === 'string' && TIME.test(value) && !Number.isNaN(Date.parse(value))
}

function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds))
}
