// Runs the program that this action is of.
//
// All that an action does is in the program (src/cli/github.rs), which gets this process' environment as it is: inputs,
// and the token of the cache service, which runners give to actions of this kind alone. Here it is only found: in PATH,
// else downloaded from the release that this check-out is of. What is downloaded must have the SHA-256 that
// `SHA256SUMS` beside this file says, so whoever pins the action to a commit has pinned the program, too.
'use strict';

const { spawn, spawnSync } = require('node:child_process');
const crypto = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const CPUS = { x64: 'x86_64', arm64: 'aarch64' };

function fail(message) {
  const escaped = message.replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A');
  process.stderr.write(`::error title=rbuild::${escaped}\n`);
  process.exit(3);
}

function inPath(name) {
  for (const dir of (process.env.PATH || '').split(path.delimiter).filter(Boolean)) {
    const file = path.join(dir, name);
    try {
      fs.accessSync(file, fs.constants.X_OK);
      if (fs.statSync(file).isFile()) return file;
    } catch {
      // Not here.
    }
  }
  return undefined;
}

function sha256(file) {
  return crypto.createHash('sha256').update(fs.readFileSync(file)).digest('hex');
}

// The one line of SHA256SUMS for this machine: `HEX  rbuild-VERSION-x86_64-linux`.
function release() {
  const cpu = CPUS[process.arch];
  if (process.platform !== 'linux' || !cpu) {
    fail(`rbuild runs on Linux, on x86_64 and aarch64; this runner is ${process.platform} on ${process.arch}`);
  }
  let sums = '';
  try {
    sums = fs.readFileSync(path.join(__dirname, 'SHA256SUMS'), 'utf8');
  } catch {
    fail(
      'this commit of the action belongs to no release, and there is no `rbuild` in PATH: ' +
        'use a tag of a release, or put a program there before',
    );
  }
  for (const line of sums.split('\n')) {
    const [, sum, name, version] = /^([0-9a-f]{64}) [ *](rbuild-(.+)-([a-z0-9_]+)-linux)$/.exec(line) || [];
    if (name && name.endsWith(`-${cpu}-linux`)) return { sum, name, version };
  }
  return fail(`the release of this action has no program for ${cpu}`);
}

// The program of this release, which later steps have in PATH: `rbuild explain`, `rbuild run`.
function installed() {
  const file = downloaded();
  if (process.env.GITHUB_PATH) fs.appendFileSync(process.env.GITHUB_PATH, `${path.dirname(file)}\n`);
  return file;
}

function downloaded() {
  const { sum, name, version } = release();
  const tools = process.env.RUNNER_TOOL_CACHE || path.join(os.tmpdir(), 'rbuild-tools');
  const dir = path.join(tools, 'rbuild', version, process.arch);
  const file = path.join(dir, 'rbuild');
  if (fs.existsSync(file) && sha256(file) === sum) return file;

  const server = process.env.GITHUB_SERVER_URL;
  const repository = process.env.GITHUB_ACTION_REPOSITORY;
  if (!server || !repository) fail('GITHUB_SERVER_URL and GITHUB_ACTION_REPOSITORY do not say where releases are');
  const url = `${server}/${repository}/releases/download/v${version}/${name}`;
  fs.mkdirSync(dir, { recursive: true });
  const aside = fs.mkdtempSync(path.join(dir, 'aside-'));
  const download = path.join(aside, 'rbuild');
  // curl knows proxies and certificates of the machine; it is on every runner.
  const curl = ['--fail', '--silent', '--show-error', '--location', '--retry', '5', '--connect-timeout', '20'];
  const done = spawnSync('curl', [...curl, '--output', download, url], { encoding: 'utf8' });
  if (done.error || done.status !== 0) {
    fs.rmSync(aside, { recursive: true });
    fail(`cannot download ${url}: ${done.error ? done.error.message : done.stderr.trim()}`);
  }
  const got = sha256(download);
  if (got !== sum) {
    fs.rmSync(aside, { recursive: true });
    fail(`${url} is not what was released: its SHA-256 is ${got}, wanted ${sum}`);
  }
  fs.chmodSync(download, 0o755);
  fs.renameSync(download, file);
  fs.rmSync(aside, { recursive: true });
  return file;
}

const build = spawn(inPath('rbuild') || installed(), ['github-action'], { stdio: 'inherit' });
// A cancelled job signals this process alone.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => build.kill(signal));
build.on('error', (error) => fail(`cannot run rbuild: ${error.message}`));
build.on('exit', (code) => {
  process.exitCode = code === null ? 1 : code;
});
